//! Artifacts: files that an attempt leaves behind. Their names and the patterns that choose them; nothing here touches a
//! file system.
use crate::text::{glob, is_hostile};
use serde::{Deserialize, Serialize};

/// Files of one attempt. With the longest names their list still fits into one frame.
pub const MAX_FILES: usize = 1000;
/// Bytes of a name.
pub const MAX_NAME: usize = 512;
/// Bytes of all files of one attempt, unless the job or the machine says less.
pub const DEFAULT_MAX_BYTES: u64 = 1 << 30;
/// More than this is taken of no attempt.
pub const MOST_BYTES: u64 = 64 << 30;
/// Patterns of one job.
pub const MAX_GLOBS: usize = 64;

/// `**` in one pattern.
const MAX_DEEP: usize = 4;

/// One file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Artifact {
    /// Relative, with `/` between its parts.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// The nine bits of permission.
    pub mode: u32,
    /// SHA-256 of its bytes, lower-case hex.
    pub sha256: String,
}

/// What is wrong with a name, or nothing: a good one stays below the directory that it is written into.
pub fn check_name(name: &str) -> Result<(), &'static str> {
    if name.is_empty() || name.len() > MAX_NAME {
        return Err("a name has 1 to 512 bytes");
    }
    if name.contains('\0') {
        return Err("a NUL character");
    }
    for part in name.split('/') {
        match part {
            "" => return Err("it is absolute, or has an empty part"),
            "." | ".." => return Err("a part is . or .."),
            long if long.len() > 255 => return Err("a part has more than 255 bytes"),
            _ => {}
        }
    }
    Ok(())
}

/// What is wrong with a list of files, or nothing: good names, each once, sizes that add up, and digests that are some.
pub fn check_list(files: &[Artifact]) -> Result<u64, &'static str> {
    if files.len() > MAX_FILES {
        return Err("more than 1,000 files");
    }
    let mut names = std::collections::HashSet::new();
    let mut total = 0_u64;
    for file in files {
        check_name(&file.name)?;
        if !names.insert(&file.name) {
            return Err("a name stands twice");
        }
        let is_digest = file.sha256.len() == 64
            && file.sha256.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        if !is_digest || file.mode & !0o777 != 0 {
            return Err("a digest or mode that is none");
        }
        total = total.checked_add(file.size).filter(|n| *n <= MOST_BYTES).ok_or("more than 64 GiB")?;
    }
    Ok(total)
}

/// A pattern as it is matched: without `./` in front. `Err`: what is wrong with it.
pub fn check_glob(pattern: &str) -> Result<&str, &'static str> {
    let plain = pattern.strip_prefix("./").unwrap_or(pattern);
    let plain = plain.strip_suffix('/').unwrap_or(plain);
    check_name(plain)?;
    if plain.chars().any(is_hostile) {
        return Err("a control character");
    }
    // Each may stand for any number of parts: many would take a long time to match.
    if plain.split('/').filter(|part| *part == "**").count() > MAX_DEEP {
        return Err("** stands more than 4 times");
    }
    Ok(plain)
}

/// Whether a pattern chooses a file: it matches its path, or a directory above it. `*` and `?` stay within one part, `**`
/// stands for any number of parts.
pub fn chooses(pattern: &str, path: &str) -> bool {
    let pattern: Vec<&str> = pattern.split('/').collect();
    let path: Vec<&str> = path.split('/').collect();
    (1..=path.len()).any(|n| matches(&pattern, &path[..n]))
}

/// Whether a pattern may choose something below a directory.
pub fn may_choose_below(pattern: &str, dir: &str) -> bool {
    let pattern: Vec<&str> = pattern.split('/').collect();
    let dir: Vec<&str> = dir.split('/').collect();
    chooses_prefix(&pattern, &dir)
}

fn matches(pattern: &[&str], path: &[&str]) -> bool {
    match (pattern.split_first(), path.split_first()) {
        (None, None) => true,
        (Some((&"**", rest)), _) => (0..=path.len()).any(|n| matches(rest, &path[n..])),
        (Some((part, rest)), Some((name, names))) => glob(part, name) && matches(rest, names),
        _ => false,
    }
}

fn chooses_prefix(pattern: &[&str], dir: &[&str]) -> bool {
    match (pattern.split_first(), dir.split_first()) {
        // All of the directory fits, or a part above it is chosen whole.
        (_, None) | (None, Some(_)) | (Some((&"**", _)), _) => true,
        (Some((part, rest)), Some((name, names))) => glob(part, name) && chooses_prefix(rest, names),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_stays_below_its_directory() {
        for good in ["model.bin", "a/b/c.txt", ".hidden", "..x", "a b\u{1b}[2J", "\u{fc}"] {
            assert_eq!(check_name(good), Ok(()), "{good:?}");
        }
        let long = "x".repeat(256);
        for bad in ["", "/etc/passwd", "../x", "a/../b", "a/./b", ".", "a//b", "a/", "a\0b", &long] {
            assert!(check_name(bad).is_err(), "{bad:?}");
        }
        assert!(check_name(&["x"; 300].join("/")).is_err());
    }

    #[test]
    fn patterns_choose_files_and_whole_directories() {
        for (pattern, path, wanted) in [
            ("*.ckpt", "last.ckpt", true),
            ("*.ckpt", "a/last.ckpt", false),
            ("**/*.ckpt", "last.ckpt", true),
            ("**/*.ckpt", "a/b/last.ckpt", true),
            ("runs", "runs/7/log.txt", true),
            ("runs/*", "runs/7/log.txt", true),
            ("runs/*.txt", "runs/7/log.txt", false),
            ("runs/**", "runs/7/log.txt", true),
            ("model-?.bin", "model-1.bin", true),
            ("model", "model.bin", false),
        ] {
            assert_eq!(chooses(pattern, path), wanted, "{pattern} {path}");
        }
        for (pattern, dir, wanted) in [
            ("*.ckpt", "a", false),
            ("a/*.ckpt", "a", true),
            ("a/*.ckpt", "b", false),
            ("a/*.ckpt", "a/b", false),
            ("**/x", "a/b/c", true),
            ("a", "a/b/c", true),
        ] {
            assert_eq!(may_choose_below(pattern, dir), wanted, "{pattern} {dir}");
        }
    }

    #[test]
    fn patterns_are_relative_and_go_nowhere_else() {
        assert_eq!(check_glob("./out/*.bin"), Ok("out/*.bin"));
        assert_eq!(check_glob("out/"), Ok("out"));
        for bad in ["", "/x", "../x", "a/../../b", "\u{1b}x", ".", "**/a/**/a/**/a/**/a/**"] {
            assert!(check_glob(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_list_is_checked_as_a_whole() {
        let file =
            |name: &str, size| Artifact { name: name.into(), size, mode: 0o644, sha256: "0".repeat(64) };
        assert_eq!(check_list(&[file("a", 3), file("b", 4)]), Ok(7));
        assert!(check_list(&[file("a", 1), file("a", 1)]).is_err());
        assert!(check_list(&[file("../a", 1)]).is_err());
        assert!(check_list(&[file("a", u64::MAX), file("b", 2)]).is_err());
        assert!(check_list(&[Artifact { sha256: "x".into(), ..file("a", 1) }]).is_err());
        assert!(check_list(&[Artifact { mode: 0o4755, ..file("a", 1) }]).is_err());
        assert!(check_list(&vec![file("a", 1); MAX_FILES + 1]).is_err());
    }
}
