//! What is collected of a directory, and what is not.
use super::*;
use reeve_protocol::token::sha256_hex;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

/// A directory of a job, and one for artifacts.
fn dirs() -> (tempfile::TempDir, Order) {
    let dir = tempfile::tempdir().unwrap();
    for name in ["cwd", "out"] {
        std::fs::create_dir(dir.path().join(name)).unwrap();
    }
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let order =
        Order { cwd: at("cwd"), is_own: false, out_dir: at("out"), globs: Vec::new(), max_bytes: 1 << 20 };
    (dir, order)
}

fn put(root: &str, name: &str, text: &str) {
    let path = Path::new(root).join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

/// The files that come out, each with its bytes, read back as the guardian does.
fn collected(order: &Order) -> Vec<(Artifact, Vec<u8>)> {
    let mut file = tempfile::tempfile().unwrap();
    Collector::new(order, file.try_clone().unwrap()).collect().unwrap();
    let mut bytes = Vec::new();
    file.rewind().unwrap();
    file.read_to_end(&mut bytes).unwrap();
    let (rest, len) = bytes.split_at(bytes.len() - 8);
    let at = rest.len() - u64::from_le_bytes(len.try_into().unwrap()) as usize;
    let index: Index = serde_json::from_slice(&rest[at..]).unwrap();
    assert_eq!(artifact::check_list(&index.files), Ok(at as u64));
    let mut from = 0;
    let list = index.files.into_iter().map(|file| {
        let bytes = rest[from..from + file.size as usize].to_vec();
        from += file.size as usize;
        (file, bytes)
    });
    list.collect()
}

fn names(order: &Order) -> Vec<String> {
    collected(order).into_iter().map(|(file, _)| file.name).collect()
}

#[test]
fn everything_below_the_directory_for_artifacts_and_what_patterns_choose() {
    let (_dir, mut order) = dirs();
    put(&order.out_dir, "model/best.bin", "best");
    put(&order.out_dir, "report.txt", "");
    put(&order.cwd, "runs/1/log.txt", "log");
    put(&order.cwd, "other.txt", "no");
    assert_eq!(names(&order), ["model/best.bin", "report.txt"]);
    order.globs = vec!["runs/*/*.txt".to_owned()];
    let files = collected(&order);
    let list: Vec<_> = files.iter().map(|(file, bytes)| (file.name.as_str(), bytes.as_slice())).collect();
    assert_eq!(list, [("model/best.bin", &b"best"[..]), ("report.txt", b""), ("runs/1/log.txt", b"log")]);
    assert!(files.iter().all(|(file, bytes)| file.sha256 == sha256_hex(bytes) && file.mode == 0o644));
    std::fs::set_permissions(
        Path::new(&order.out_dir).join("report.txt"),
        std::fs::Permissions::from_mode(0o4750),
    )
    .unwrap();
    assert_eq!(collected(&order)[1].0.mode, 0o750, "no bit that grants anything");
}

#[test]
fn links_pipes_and_what_they_lead_to_stay_out() {
    let (dir, mut order) = dirs();
    order.globs = vec!["**".to_owned()];
    put(dir.path().to_str().unwrap(), "secret/key", "secret");
    symlink(dir.path().join("secret"), Path::new(&order.cwd).join("dir")).unwrap();
    symlink(dir.path().join("secret/key"), Path::new(&order.cwd).join("key")).unwrap();
    symlink("/", Path::new(&order.out_dir).join("root")).unwrap();
    let pipe = Path::new(&order.cwd).join("pipe");
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, FileType::Fifo, Mode::RUSR, 0).unwrap();
    put(&order.cwd, "plain\u{1b}[2J", "ok");
    assert_eq!(names(&order), ["plain\u{1b}[2J"]);
}

#[test]
fn what_does_not_fit_is_left_out_and_smaller_ones_are_kept() {
    let (_dir, mut order) = dirs();
    order.max_bytes = 10;
    put(&order.out_dir, "a", "12345678");
    put(&order.out_dir, "b", "123");
    put(&order.out_dir, "c", "12");
    put(&order.out_dir, "d", "");
    assert_eq!(names(&order), ["a", "c", "d"]);
    order.max_bytes = 0;
    assert_eq!(names(&order), ["d"]);
}

#[test]
fn of_very_many_files_the_first_are_kept() {
    let (_dir, order) = dirs();
    for n in 0..artifact::MAX_FILES + 5 {
        put(&order.out_dir, &format!("f{n:05}"), "");
    }
    let names = names(&order);
    assert_eq!((names.len(), names[999].as_str()), (artifact::MAX_FILES, "f00999"));
}

#[test]
fn files_of_reeve_in_an_own_directory_are_none_of_the_jobs() {
    let (_dir, mut order) = dirs();
    order.globs = vec!["*".to_owned()];
    for name in OURS.into_iter().chain(["mine"]) {
        put(&order.cwd, name, "x");
    }
    assert_eq!(names(&order).len(), OURS.len() + 1);
    order.is_own = true;
    assert_eq!(names(&order), ["mine"]);
}

#[test]
fn directories_that_are_gone_are_no_error() {
    let (dir, mut order) = dirs();
    order.globs = vec!["*".to_owned()];
    std::fs::remove_dir_all(dir.path()).unwrap();
    assert_eq!(names(&order), Vec::<String>::new());
}
