//! Files that a job writes for others to read: opened without following a link, waiting for a pipe, or believing that they
//! are the job's. What is wrong with a result is said in the attempt's output; the job does not end otherwise for it.
use super::{Guardian, environment};
use reeve_protocol::tape::STDERR;
use reeve_protocol::time::Wall;
use rustix::fs::{Mode, OFlags, open};
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;

/// Largest result.
const MAX_RESULT: u64 = 256 * 1024;

/// Opens a plain file of the job. `None`: there is none.
///
/// # Errors
/// A link, something that is no file, a file of somebody else, or from the file system.
pub(crate) fn open_of_job(dir: &str, name: &str) -> io::Result<Option<File>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match open(format!("{dir}/{name}"), flags, Mode::empty()) {
        Ok(fd) => File::from(fd),
        Err(rustix::io::Errno::NOENT) => return Ok(None),
        Err(rustix::io::Errno::LOOP) => return Err(io::Error::other("it is a link")),
        Err(error) => return Err(error.into()),
    };
    let meta = file.metadata()?;
    if !meta.is_file() {
        return Err(io::Error::other("it is no plain file"));
    }
    // A root keeper would read for a job what a hard link names and only root may read.
    if rustix::process::geteuid().is_root() && meta.uid() != std::fs::symlink_metadata(dir)?.uid() {
        return Err(io::Error::other("it belongs to another user"));
    }
    Ok(Some(file))
}

/// The result in a file, or what is wrong with it, in words.
fn read(dir: &str) -> Result<Option<Vec<u8>>, String> {
    let unread = |error: io::Error| format!("cannot be read ({error})");
    let Some(file) = open_of_job(dir, environment::RESULT).map_err(unread)? else { return Ok(None) };
    let mut bytes = Vec::new();
    file.take(MAX_RESULT + 1).read_to_end(&mut bytes).map_err(unread)?;
    if bytes.len() as u64 > MAX_RESULT {
        return Err("is larger than 256 KiB".to_owned());
    }
    // Parsed whole: whoever shows it later parses it again, and must not fail where this did not.
    match serde_json::from_slice::<serde_json::Value>(&bytes) {
        Ok(_) => Ok(Some(bytes)),
        Err(error) => Err(format!("is not JSON ({error})")),
    }
}

impl Guardian<'_> {
    /// What the job left in its result file.
    pub(super) fn read_result(&mut self) -> Option<Vec<u8>> {
        match read(self.workdir.path()) {
            Ok(result) => result,
            Err(problem) => {
                self.remark(&format!("the file in REEVE_RESULT {problem} and was ignored"));
                None
            }
        }
    }

    /// Says something in the attempt's own output.
    pub(super) fn remark(&mut self, what: &str) {
        let note = format!("reeve: {}\n", reeve_protocol::text::Clean::short(what, 1000));
        self.tape.record(STDERR, Wall::now().0.max(0) as u64, note.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(bytes: &[u8]) -> Result<Option<Vec<u8>>, String> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(environment::RESULT), bytes).unwrap();
        read(dir.path().to_str().unwrap())
    }

    #[test]
    fn only_whole_json_within_the_limit_is_a_result() {
        assert_eq!(of(br#"{"loss":1}"#), Ok(Some(br#"{"loss":1}"#.to_vec())));
        assert_eq!(of(b"  7\n"), Ok(Some(b"  7\n".to_vec())));
        let deep = format!("{}{}", "[".repeat(1000), "]".repeat(1000));
        let cases: [&[u8]; 8] =
            [b"", b"{", b"NaN", b"{\"a\":Infinity}", b"\"\xff\"", br#""\ud800""#, deep.as_bytes(), b"1e999"];
        for nonsense in cases {
            assert!(of(nonsense).unwrap_err().starts_with("is not JSON"), "{nonsense:?}");
        }
        let mut large = vec![b' '; MAX_RESULT as usize];
        large[0] = b'1';
        assert!(of(&large).is_ok());
        large.push(b' ');
        assert_eq!(of(&large), Err("is larger than 256 KiB".to_owned()));
    }

    #[test]
    fn what_is_no_plain_file_is_neither_followed_nor_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().to_str().unwrap();
        let place = dir.path().join(environment::RESULT);
        assert_eq!(read(path), Ok(None));
        std::os::unix::fs::symlink("/etc/passwd", &place).unwrap();
        assert!(read(path).unwrap_err().contains("link"));
        std::fs::remove_file(&place).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, &place, rustix::fs::FileType::Fifo, Mode::RUSR, 0).unwrap();
        assert!(read(path).unwrap_err().contains("no plain file"), "a pipe that nobody writes to");
        std::fs::remove_file(&place).unwrap();
        std::fs::create_dir(&place).unwrap();
        assert!(read(path).unwrap_err().contains("no plain file"));
    }
}
