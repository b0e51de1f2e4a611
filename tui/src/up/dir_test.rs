//! Locks, holders and pointers of a directory of `reeve up`.
use super::*;

fn dir() -> (tempfile::TempDir, Dir) {
    let base = tempfile::tempdir().unwrap();
    let dir = Dir::open(Some(&base.path().join("a/up"))).unwrap();
    (base, dir)
}

#[test]
fn a_directory_is_made_for_this_user_alone() {
    let (_base, dir) = dir();
    assert_eq!(std::fs::metadata(dir.root()).unwrap().mode() & 0o777, 0o700);
    assert!(dir.root().is_absolute());
}

#[test]
fn only_one_server_holds_it_and_others_learn_who() {
    let (_base, dir) = dir();
    assert_eq!(dir.holder().unwrap(), None);
    let mut lock = dir.lock().unwrap().expect("nobody holds it");
    assert!(dir.lock().unwrap().is_none());
    lock.tell(None).unwrap();
    let pid = i32::try_from(std::process::id()).ok();
    assert_eq!(dir.holder().unwrap(), Some(Holder { pid, socket: None }));
    lock.tell(Some(Path::new("/run/s"))).unwrap();
    assert_eq!(dir.holder().unwrap(), Some(Holder { pid, socket: Some("/run/s".into()) }));
    drop(lock);
    assert_eq!(dir.holder().unwrap(), None);
}

#[test]
fn a_half_written_lock_names_nobody() {
    for text in ["", "\n", "x\n\n", "1\n", "-5\n"] {
        assert_eq!(Holder::parse(text).pid, None, "{text:?}");
    }
    assert_eq!(Holder::parse("12\n/s\n"), Holder { pid: Some(12), socket: Some("/s".into()) });
}

#[test]
fn a_runtime_directory_is_taken_only_when_no_other_user_can_change_it() {
    use std::os::unix::fs::{PermissionsExt as _, symlink};
    let base = tempfile::tempdir().unwrap();
    let uid = rustix::process::geteuid().as_raw();
    let (ours, open, link) = (base.path().join("ours"), base.path().join("open"), base.path().join("link"));
    private_dir(&ours).unwrap();
    std::fs::create_dir(&open).unwrap();
    std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o777)).unwrap();
    symlink(&ours, &link).unwrap();
    assert!(is_for_us(&ours, uid) && is_for_us(&base.path().join("to be made"), uid));
    assert!(!is_for_us(&ours, uid + 1), "another user's");
    assert!(!is_for_us(&open, uid) && !is_for_us(&link, uid));
    assert!(!is_for_us(Path::new("/proc/no/such"), uid));
}

#[test]
fn without_a_session_sockets_lie_in_memory_where_there_is_any() {
    let found = in_memory(rustix::process::geteuid().as_raw());
    assert!(found.is_none_or(|dir| dir.parent().and_then(magic) == Some(TMPFS)));
}

#[test]
fn local_file_systems_are_not_taken_for_network_ones() {
    assert!(!is_network(Path::new("/proc")));
    assert!(!is_network(Path::new("/proc/does/not/exist")));
}

#[test]
fn a_pointer_that_another_server_took_over_is_left_alone() {
    let base = tempfile::tempdir().unwrap();
    let path = base.path().join("up");
    for (content, stays) in [("/mine\n", false), ("/other\n", true)] {
        std::fs::write(&path, content).unwrap();
        drop(Pointer { path: path.clone(), socket: "/mine".into() });
        assert_eq!(path.exists(), stays, "{content}");
    }
}

#[test]
fn sockets_stay_where_the_first_server_put_them() {
    let (base, dir) = dir();
    let elsewhere = base.path().join("elsewhere");
    std::fs::create_dir(&elsewhere).unwrap();
    std::fs::write(dir.root().join("runtime"), format!("{}\n", elsewhere.display())).unwrap();
    assert_eq!(dir.runtime(), elsewhere);
    assert_eq!(dir.socket(), elsewhere.join("coordinator.sock"));
    // After a restart of the machine that place is gone.
    std::fs::remove_dir(&elsewhere).unwrap();
    assert_ne!(dir.runtime(), elsewhere);
    dir.settle().unwrap();
    let runtime = dir.runtime();
    assert!(runtime.exists());
    std::fs::remove_dir(&runtime).unwrap();
}
