//! The Unix socket: private, in a private directory, never stolen from a coordinator that answers.
use std::ffi::OsStr;
use std::fs::{DirBuilder, File, Permissions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use tokio::net::UnixListener;

/// The kernel's bound on the path of a socket, its final zero included (`sun_path`).
const SUN_PATH: usize = 108;

/// Makes the socket: mode 0600, in a directory that is made with 0700 if it is absent. A socket that nobody answers on is
/// replaced; any other file is not touched.
///
/// # Errors
/// `AddrInUse` when somebody answers there or it is no socket; else from the file system.
pub fn bind(path: &Path) -> io::Result<UnixListener> {
    let (dir, name) = parts(path)?;
    DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    // Through a directory's descriptor the kernel sees a short path, however long the real one is. The socket itself
    // stays where it is when the descriptor is closed.
    let handle = File::options().read(true).custom_flags(libc_directory()).open(dir)?;
    let near = |name: &OsStr| PathBuf::from(format!("/proc/self/fd/{}", handle.as_raw_fd())).join(name);
    check_free(&near(name), path)?;
    // It is made under another name and gets its mode before anybody can see it; the rename also replaces a stale one.
    let mut new = name.to_owned();
    new.push(format!(".{}", std::process::id()));
    if near(&new).as_os_str().len() >= SUN_PATH {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("the file name of {} is too long", path.display()),
        ));
    }
    let _ = std::fs::remove_file(near(&new));
    let listener = UnixListener::bind(near(&new))?;
    std::fs::set_permissions(near(&new), Permissions::from_mode(0o600))?;
    std::fs::rename(near(&new), near(name))?;
    Ok(listener)
}

fn parts(path: &Path) -> io::Result<(&Path, &OsStr)> {
    let dir = path.parent().map(|p| if p.as_os_str().is_empty() { Path::new(".") } else { p });
    match (dir, path.file_name()) {
        (Some(dir), Some(name)) if !name.as_bytes().is_empty() => Ok((dir, name)),
        _ => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("{} is not the path of a socket", path.display()),
        )),
    }
}

fn libc_directory() -> i32 {
    rustix::fs::OFlags::DIRECTORY.bits() as i32
}

fn check_free(near: &Path, shown: &Path) -> io::Result<()> {
    let taken =
        |why: &str| Err(io::Error::new(io::ErrorKind::AddrInUse, format!("{} {why}", shown.display())));
    match std::fs::symlink_metadata(near) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
        Ok(meta) if !meta.file_type().is_socket() => return taken("exists and is no socket"),
        Ok(_) => {}
    }
    match std::os::unix::net::UnixStream::connect(near) {
        Ok(_) => taken("is served by another coordinator"),
        Err(error) if matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound) => {
            Ok(())
        }
        // A full backlog, or no right to connect: somebody is there.
        Err(error) => taken(&format!("is in use ({error})")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_socket_is_private_and_a_stale_one_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run").join("c.sock");
        drop(bind(&path).unwrap());
        let mode = |p: &Path| std::fs::metadata(p).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
        let again = bind(&path).unwrap();
        let error = bind(&path).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        assert!(error.to_string().contains("another coordinator"), "{error}");
        drop(again);
    }

    #[tokio::test]
    async fn another_file_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notes.txt");
        std::fs::write(&path, "mine").unwrap();
        assert_eq!(bind(&path).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        assert_eq!(std::fs::read(&path).unwrap(), b"mine");
        assert!(bind(Path::new("/")).is_err());
    }

    #[tokio::test]
    async fn a_path_longer_than_the_kernel_takes_works() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("d".repeat(120)).join("e".repeat(120)).join("c.sock");
        let _listener = bind(&path).unwrap();
        assert!(path.symlink_metadata().unwrap().file_type().is_socket());
    }
}
