//! Ledgers: files of JSON lines that are only appended to. A line carries the boot-time clock (`t`, nanoseconds), which
//! all processes of a machine share, and the wall clock (`w`, milliseconds), which the coordinator's records use.
use rustix::time::{ClockId, clock_gettime};
use serde_json::Value;
use std::fs::File;
use std::io::{self, Write as _};
use std::path::Path;
use std::sync::Mutex;
use std::time::SystemTime;

/// The boot-time clock, nanoseconds.
pub fn boot_ns() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// The wall clock, milliseconds.
pub fn wall_ms() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64)
}

/// One file of lines.
pub struct Ledger(Mutex<File>);

impl Ledger {
    /// Makes it.
    ///
    /// # Errors
    /// When it exists already, or the file system's.
    pub fn create(path: &Path) -> io::Result<Self> {
        Ok(Self(Mutex::new(File::options().create_new(true).append(true).open(path)?)))
    }

    /// Adds a line with the time. A ledger that cannot be written proves nothing: that ends the run.
    pub fn note(&self, value: Value) {
        self.write(value, false);
    }

    /// As [`Ledger::note`], and on disk when it returns: for intents, which come before what they speak of.
    pub fn synced(&self, value: Value) {
        self.write(value, true);
    }

    /// Adds many lines, then syncs once.
    pub fn all_synced(&self, values: Vec<Value>) {
        let last = values.len().saturating_sub(1);
        for (at, value) in values.into_iter().enumerate() {
            self.write(value, at == last);
        }
    }

    /// Adds a line as it is.
    pub fn raw(&self, line: &str) {
        let mut file = self.0.lock().unwrap();
        file.write_all(format!("{}\n", line.trim_end()).as_bytes()).unwrap();
    }

    fn write(&self, mut value: Value, sync: bool) {
        value["t"] = boot_ns().into();
        value["w"] = wall_ms().into();
        let mut file = self.0.lock().unwrap();
        file.write_all(format!("{value}\n").as_bytes()).unwrap();
        if sync {
            file.sync_data().unwrap();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn lines_are_added_in_order_with_both_clocks_and_a_ledger_is_made_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("l");
        let ledger = Ledger::create(&path).unwrap();
        ledger.note(json!({"op": "a"}));
        ledger.all_synced(vec![json!({"op": "b"}), json!({"op": "c"})]);
        ledger.raw("{\"op\":\"d\"}\n");
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        assert_eq!(lines.iter().map(|l| l["op"].as_str().unwrap()).collect::<String>(), "abcd");
        assert!(lines[0]["t"].as_u64() <= lines[1]["t"].as_u64() && lines[0]["w"].as_u64() > Some(0));
        assert!(Ledger::create(&path).is_err());
    }
}
