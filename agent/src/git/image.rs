//! A commit's files in one file, so that the second checkout of it reads one file and runs no git: for a thousand files
//! that is a fifth of the time. It is checked by its own hash, and is only ever a copy: without it git is asked again.
use aws_lc_rs::digest::{SHA256, SHA256_OUTPUT_LEN, digest};
use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::{OpenOptionsExt as _, symlink};
use std::path::{Component, Path, PathBuf};

/// Larger trees are left to git: copying costs as much as unpacking then.
const MAX_BYTES: u64 = 64 << 20;
const MAX_FILES: usize = 20_000;
/// Images kept per mirror.
const MAX_IMAGES: usize = 8;
const MAGIC: &[u8] = b"reeve-image-1\n";

/// How an entry stands in a tree.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    File = 0,
    Program = 1,
    Link = 2,
    /// A submodule: an empty directory.
    Module = 3,
}

impl Kind {
    /// From the mode of `git ls-files --stage`.
    fn of_mode(mode: &[u8]) -> Option<Self> {
        Some(match mode {
            b"100644" => Self::File,
            b"100755" => Self::Program,
            b"120000" => Self::Link,
            b"160000" => Self::Module,
            _ => return None,
        })
    }

    fn of_byte(byte: u8) -> Option<Self> {
        [Self::File, Self::Program, Self::Link, Self::Module].into_iter().find(|k| *k as u8 == byte)
    }
}

/// Makes the image of a tree that git has just checked out. `listing` is `git ls-files --stage -z`. `None`: too large.
pub(super) fn build(tree: &Path, listing: &[u8]) -> io::Result<Option<Vec<u8>>> {
    let mut image = MAGIC.to_vec();
    let entries: Vec<&[u8]> = listing.split(|b| *b == 0).filter(|e| !e.is_empty()).collect();
    if entries.len() > MAX_FILES {
        return Ok(None);
    }
    for entry in entries {
        let parsed = entry.split(|b| *b == b'\t').next().map(<[u8]>::len).and_then(|at| {
            let (head, name) = (&entry[..at], entry.get(at + 1..)?);
            Some((Kind::of_mode(head.split(|b| *b == b' ').next()?)?, name))
        });
        let (kind, name) = parsed.ok_or(io::ErrorKind::InvalidData)?;
        let path = tree.join(std::ffi::OsStr::from_bytes(name));
        let bytes = match kind {
            Kind::File | Kind::Program => fs::read(&path)?,
            Kind::Link => fs::read_link(&path)?.into_os_string().into_vec(),
            Kind::Module => Vec::new(),
        };
        if image.len() as u64 + bytes.len() as u64 > MAX_BYTES {
            return Ok(None);
        }
        put(&mut image, kind as u8, name, &bytes);
    }
    put(&mut image, u8::MAX, b"", &fs::read(tree.join(".git/index"))?);
    let hash = digest(&SHA256, &image);
    image.extend_from_slice(hash.as_ref());
    Ok(Some(image))
}

fn put(image: &mut Vec<u8>, kind: u8, name: &[u8], bytes: &[u8]) {
    image.push(kind);
    for part in [name, bytes] {
        image.extend_from_slice(&(part.len() as u32).to_le_bytes());
        image.extend_from_slice(part);
    }
}

/// Keeps an image; a failure only costs time later.
pub(super) fn store(images: &Path, commit: &str, image: &[u8]) {
    let write = || {
        fs::create_dir_all(images)?;
        let draft = images.join(format!("{commit}.{}", std::process::id()));
        fs::write(&draft, image)?;
        fs::rename(draft, images.join(commit))
    };
    let _ = write();
    let Ok(entries) = fs::read_dir(images) else { return };
    let mut kept: Vec<_> =
        entries.flatten().filter_map(|e| Some((e.metadata().ok()?.modified().ok()?, e.path()))).collect();
    kept.sort();
    for (_, path) in kept.iter().take(kept.len().saturating_sub(MAX_IMAGES)) {
        let _ = fs::remove_file(path);
    }
}

/// Writes the files of an image into a fresh tree. False: there is none that can be used, and nothing was written.
pub(super) fn unpack(images: &Path, commit: &str, tree: &Path) -> io::Result<bool> {
    let Ok(image) = fs::read(images.join(commit)) else { return Ok(false) };
    let Some(entries) = checked(&image) else {
        let _ = fs::remove_file(images.join(commit));
        return Ok(false);
    };
    let mut made = HashSet::new();
    for (kind, name, bytes) in &entries {
        let path = tree.join(name);
        if let Some(parent) = path.parent().filter(|p| *p != tree && !made.contains(*p)) {
            fs::create_dir_all(parent)?;
            made.insert(parent.to_path_buf());
        }
        match kind {
            Kind::File | Kind::Program => {
                let mode = if *kind == Kind::Program { 0o777 } else { 0o666 };
                File::options().write(true).create_new(true).mode(mode).open(path)?.write_all(bytes)?;
            }
            // Links are made last: nothing is written through one.
            Kind::Link => {}
            Kind::Module => fs::create_dir_all(path)?,
        }
    }
    for (_, name, target) in entries.iter().filter(|(kind, ..)| *kind == Kind::Link) {
        symlink(std::ffi::OsStr::from_bytes(target), tree.join(name))?;
    }
    Ok(true)
}

type Entry<'i> = (Kind, PathBuf, &'i [u8]);

/// The entries of an image that is whole, the index as a file of `.git`.
fn checked(image: &[u8]) -> Option<Vec<Entry<'_>>> {
    let (content, hash) = image.split_at_checked(image.len().checked_sub(SHA256_OUTPUT_LEN)?)?;
    if digest(&SHA256, content).as_ref() != hash {
        return None;
    }
    let mut rest = content.strip_prefix(MAGIC)?;
    let mut entries = Vec::new();
    while let Some((kind, more)) = rest.split_first() {
        let (name, more) = part(more)?;
        let (bytes, more) = part(more)?;
        rest = more;
        if *kind == u8::MAX {
            entries.push((Kind::File, PathBuf::from(".git/index"), bytes));
            continue;
        }
        let name = PathBuf::from(std::ffi::OsStr::from_bytes(name));
        let is_plain = |part: Component<'_>| match part {
            Component::Normal(word) => !word.eq_ignore_ascii_case(".git"),
            _ => false,
        };
        if name.as_os_str().is_empty() || !name.components().all(is_plain) {
            return None;
        }
        entries.push((Kind::of_byte(*kind)?, name, bytes));
    }
    Some(entries)
}

fn part(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (len, rest) = bytes.split_first_chunk::<4>()?;
    rest.split_at_checked(u32::from_le_bytes(*len) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn a_tree(dir: &Path) -> Vec<u8> {
        fs::create_dir_all(dir.join(".git")).unwrap();
        fs::write(dir.join(".git/index"), "index").unwrap();
        fs::create_dir_all(dir.join("a/b")).unwrap();
        fs::write(dir.join("a/b/new\nline"), "text").unwrap();
        fs::write(dir.join("run"), "#!/bin/sh").unwrap();
        symlink("/etc/passwd", dir.join("link")).unwrap();
        b"100644 0 0\ta/b/new\nline\x00100755 0 0\trun\x00120000 0 0\tlink\x00160000 0 0\tmod\x00".to_vec()
    }

    #[test]
    fn a_tree_comes_back_with_modes_links_and_strange_names() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to, images) = (dir.path().join("from"), dir.path().join("to"), dir.path().join("images"));
        let listing = a_tree(&from);
        store(&images, "c", &build(&from, &listing).unwrap().unwrap());
        fs::create_dir_all(to.join(".git")).unwrap();
        assert!(unpack(&images, "c", &to).unwrap());
        assert_eq!(fs::read_to_string(to.join("a/b/new\nline")).unwrap(), "text");
        assert_eq!(fs::read_to_string(to.join(".git/index")).unwrap(), "index");
        assert_eq!(fs::metadata(to.join("run")).unwrap().permissions().mode() & 0o100, 0o100);
        assert_eq!(fs::read_link(to.join("link")).unwrap(), Path::new("/etc/passwd"));
        assert!(to.join("mod").is_dir());
        assert!(!unpack(&images, "other", &to).unwrap());
    }

    #[test]
    fn a_damaged_image_is_thrown_away_and_nothing_written() {
        let dir = tempfile::tempdir().unwrap();
        let images = dir.path().join("images");
        let listing = a_tree(&dir.path().join("from"));
        let image = build(&dir.path().join("from"), &listing).unwrap().unwrap();
        let mut flipped = image.clone();
        flipped[MAGIC.len() + 20] ^= 1;
        for bad in [&flipped[..], &image[..image.len() - 1], b"", b"short"] {
            store(&images, "c", bad);
            assert!(!unpack(&images, "c", &dir.path().join("to")).unwrap());
            assert!(!images.join("c").exists() && !dir.path().join("to").exists());
        }
    }

    #[test]
    fn no_entry_leads_out_of_the_tree_or_into_its_repository() {
        for name in ["../x", "/etc/x", "a/../../x", ".git/hooks/x", "a/.GIT/x", ""] {
            let mut image = MAGIC.to_vec();
            put(&mut image, 0, name.as_bytes(), b"x");
            let hash = digest(&SHA256, &image);
            image.extend_from_slice(hash.as_ref());
            assert!(checked(&image).is_none(), "{name}");
        }
    }

    #[test]
    fn only_the_newest_images_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        for n in 0..MAX_IMAGES + 3 {
            store(dir.path(), &n.to_string(), b"x");
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), MAX_IMAGES);
    }
}
