//! Devices as a file describes them (`gpu_file`): for machines whose operator knows better than a driver, and for trying what
//! happens when one fails. The file is read at every look, so that it can be changed while the agent runs.
use super::{Device, Source};
use reeve_protocol::units::parse_bytes;
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// A file.
pub(super) struct Recorded {
    file: PathBuf,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    gpu: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    uuid: String,
    #[serde(default)]
    model: String,
    /// All of its memory, such as `80GiB`.
    memory: Option<String>,
    /// What of it is in use.
    used: Option<String>,
    /// Share of the time that it works, 0 to 1.
    busy: Option<f64>,
    /// Why it cannot be used.
    fault: Option<String>,
}

impl Recorded {
    pub(super) fn new(file: &Path) -> Self {
        Self { file: file.to_path_buf() }
    }
}

impl Source for Recorded {
    fn look(&mut self) -> Result<Vec<Device>, String> {
        let said = |error: &dyn std::fmt::Display| format!("{}: {error}", self.file.display());
        let text = std::fs::read_to_string(&self.file).map_err(|error| said(&error))?;
        let file: File = toml::from_str(&text).map_err(|error| said(&error.message()))?;
        file.gpu.into_iter().map(|entry| device(entry).map_err(|error| said(&error))).collect()
    }
}

fn device(entry: Entry) -> Result<Device, String> {
    let bytes = |text: Option<String>| text.map_or(Ok(0), |text| parse_bytes(&text));
    let memory_used = bytes(entry.used)?;
    Ok(Device {
        uuid: entry.uuid,
        model: entry.model,
        memory_bytes: bytes(entry.memory)?,
        memory_used,
        held: 0,
        overhead: 0,
        busy_permille: entry.busy.map(|busy| (busy.clamp(0.0, 1.0) * 1000.0) as u16),
        fault: entry.fault,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_again_at_every_look() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("gpus.toml");
        let mut recorded = Recorded::new(&file);
        assert!(recorded.look().unwrap_err().contains("gpus.toml"));
        std::fs::write(
            &file,
            "[[gpu]]\nuuid = \"GPU-1\"\nmodel = \"H100\"\nmemory = \"80GiB\"\nbusy = 0.5\n",
        )
        .unwrap();
        let seen = recorded.look().unwrap();
        assert_eq!(
            (seen[0].memory_bytes, seen[0].busy_permille, seen[0].occupied()),
            (80 << 30, Some(500), 0)
        );
        std::fs::write(&file, "[[gpu]]\nuuid = \"GPU-1\"\nused = \"2GiB\"\nfault = \"it smokes\"\n").unwrap();
        let seen = recorded.look().unwrap();
        assert_eq!((seen[0].occupied(), seen[0].fault.as_deref()), (2 << 30, Some("it smokes")));
        for wrong in
            ["[[gpu]]\n", "[[gpu]]\nuuid = \"a\"\ncolour = 1\n", "[[gpu]]\nuuid = \"a\"\nused = \"lots\"\n"]
        {
            std::fs::write(&file, wrong).unwrap();
            assert!(recorded.look().is_err(), "{wrong}");
        }
    }
}
