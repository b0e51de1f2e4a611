//! SQLite on the bad disk of [`crate::disk`]: the system's own file functions, with a word of ours before every write,
//! truncation and sync. The only unsafe code beside the guardian's system calls and the benchmark's: SQLite knows its
//! files by tables of C functions.
#![expect(unsafe_code, reason = "a VFS is a table of C functions")]
use crate::disk::{self, disk};
use rusqlite::ffi::{
    SQLITE_OK, SQLITE_OPEN_MAIN_DB, SQLITE_OPEN_WAL, sqlite3_file, sqlite3_io_methods, sqlite3_vfs,
    sqlite3_vfs_find, sqlite3_vfs_register,
};
use std::collections::HashMap;
use std::ffi::{CStr, OsStr, c_char, c_int, c_void};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex, MutexGuard, OnceLock, PoisonError};

/// The system's VFS. It lives as long as the process and is never changed.
static SYSTEM: OnceLock<System> = OnceLock::new();

struct System {
    vfs: *mut sqlite3_vfs,
    original: sqlite3_vfs,
}

// SAFETY: SQLite itself uses the table from every thread; nobody writes to it.
unsafe impl Send for System {}
// SAFETY: as above.
unsafe impl Sync for System {}

/// A file that is open: where it lies, and the system's functions for it.
#[derive(Clone)]
struct Known {
    path: PathBuf,
    methods: sqlite3_io_methods,
}

/// By the address of SQLite's file object.
fn files() -> MutexGuard<'static, HashMap<usize, Known>> {
    static FILES: LazyLock<Mutex<HashMap<usize, Known>>> = LazyLock::new(Mutex::default);
    FILES.lock().unwrap_or_else(PoisonError::into_inner)
}

fn known(file: *mut sqlite3_file) -> Known {
    files().get(&(file as usize)).cloned().expect("only files that `open` has entered have our functions")
}

/// Every store that this process opens from now on lies on the bad disk.
pub fn register() {
    SYSTEM.get_or_init(|| {
        // SAFETY: null asks for the default VFS, which is the system's until we register ours.
        let vfs = unsafe { sqlite3_vfs_find(std::ptr::null()) };
        // SAFETY: SQLite has a default VFS, and its tables are plain data.
        let original = unsafe { *vfs };
        let ours = sqlite3_vfs {
            zName: c"bad-disk".as_ptr(),
            pNext: std::ptr::null_mut(),
            xOpen: Some(open),
            xDelete: Some(delete),
            ..original
        };
        // SAFETY: the table is leaked, so it outlives every user.
        let code = unsafe { sqlite3_vfs_register(Box::leak(Box::new(ours)), 1) };
        assert_eq!(code, SQLITE_OK, "SQLite takes another VFS");
        System { vfs, original }
    });
}

fn system() -> &'static System {
    SYSTEM.get().expect("our functions are known to SQLite only after `register`")
}

/// # Safety
/// `name` is a C string.
unsafe fn path_of(name: *const c_char) -> PathBuf {
    // SAFETY: as above.
    let name = unsafe { CStr::from_ptr(name) };
    Path::new(OsStr::from_bytes(name.to_bytes())).to_owned()
}

/// # Safety
/// SQLite keeps the contract of `xOpen`; so do all below.
unsafe extern "C" fn open(
    _: *mut sqlite3_vfs,
    name: *const c_char,
    file: *mut sqlite3_file,
    flags: c_int,
    out: *mut c_int,
) -> c_int {
    let system = system();
    let real = system.original.xOpen.expect("every VFS opens files");
    // SAFETY: passed on as it came; the object is of the size that the system's VFS asked for.
    let code = unsafe { real(system.vfs, name, file, flags, out) };
    if code != SQLITE_OK || name.is_null() || flags & (SQLITE_OPEN_MAIN_DB | SQLITE_OPEN_WAL) == 0 {
        return code;
    }
    // SAFETY: the file was opened, so its name is a string and its functions are set.
    let (path, methods) = unsafe { (path_of(name), *(*file).pMethods) };
    disk().opened(&path);
    let ours = sqlite3_io_methods {
        xClose: Some(close),
        xWrite: Some(write),
        xTruncate: Some(truncate),
        xSync: Some(sync),
        ..methods
    };
    files().insert(file as usize, Known { path, methods });
    // SAFETY: the first field of every file object is the pointer to its functions. The table is leaked: some hundred
    // bytes for each of the few files of a test.
    unsafe { (*file).pMethods = Box::leak(Box::new(ours)) };
    code
}

unsafe extern "C" fn delete(_: *mut sqlite3_vfs, name: *const c_char, sync_dir: c_int) -> c_int {
    let system = system();
    // SAFETY: SQLite gives a name.
    disk().deleted(&unsafe { path_of(name) });
    let real = system.original.xDelete.expect("every VFS deletes files");
    // SAFETY: passed on as it came.
    unsafe { real(system.vfs, name, sync_dir) }
}

unsafe extern "C" fn close(file: *mut sqlite3_file) -> c_int {
    let Known { methods, .. } = known(file);
    files().remove(&(file as usize));
    let real = methods.xClose.expect("files can be closed");
    // SAFETY: passed on as it came.
    unsafe { real(file) }
}

unsafe extern "C" fn write(file: *mut sqlite3_file, from: *const c_void, len: c_int, at: i64) -> c_int {
    let Known { path, methods } = known(file);
    // SAFETY: SQLite gives `len` bytes at `from`.
    let bytes = unsafe { std::slice::from_raw_parts(from.cast::<u8>(), len.unsigned_abs() as usize) };
    let (kept, code) = disk().write(&path, at.unsigned_abs(), bytes);
    if kept == 0 {
        return code;
    }
    let real = methods.xWrite.expect("files can be written");
    // SAFETY: passed on, perhaps with fewer of the bytes.
    match unsafe { real(file, from, kept as c_int, at) } {
        SQLITE_OK => code,
        failed => failed,
    }
}

unsafe extern "C" fn truncate(file: *mut sqlite3_file, len: i64) -> c_int {
    let Known { path, methods } = known(file);
    disk().truncated(&path, len.unsigned_abs());
    let real = methods.xTruncate.expect("files can be cut");
    // SAFETY: passed on as it came.
    unsafe { real(file, len) }
}

unsafe extern "C" fn sync(file: *mut sqlite3_file, flags: c_int) -> c_int {
    let Known { path, methods } = known(file);
    let real = methods.xSync.expect("files can be synced");
    // SAFETY: passed on as it came.
    disk::sync(&path, || unsafe { real(file, flags) })
}
