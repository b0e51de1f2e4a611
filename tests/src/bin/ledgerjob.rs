//! A job that writes the truth about its own execution, outside reeve: one file per attempt, made exclusively, so that a
//! second start of one attempt is found by the file system itself.
//!
//! `ledgerjob DIR RUN KEY [ms=N] [out=BYTES] [code=N] [fails=N] [beat=MS] [until=FILE]`
//!
//! Lines: `S run key job index attempt machine pid start_time boot_id uid boot_ns`, `B boot_ns` every `beat`
//! milliseconds, `F code boot_ns`. S and F are synced. The first `fails` attempts end with `code`, later ones with 0.
#![allow(
    clippy::unwrap_used,
    reason = "a job of the tests: whatever it meets ends it with a code of its own"
)]

use reeve_tests::chaos::generate::Output;
use reeve_tests::chaos::ledger::boot_ns;
use std::fs::File;
use std::io::{self, ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

/// The file of this attempt existed.
const TWICE: u8 = 99;
/// The ledger cannot be written, or the arguments make no sense.
const BROKEN: u8 = 98;

struct Order {
    dir: PathBuf,
    run: String,
    key: String,
    ms: u64,
    out: u64,
    code: u8,
    fails: u64,
    beat: u64,
    until: Option<PathBuf>,
}

fn order() -> Option<Order> {
    let mut words = std::env::args().skip(1);
    let (dir, run, key) = (words.next()?, words.next()?, words.next()?);
    let mut order =
        Order { dir: dir.into(), run, key, ms: 0, out: 0, code: 0, fails: u64::MAX, beat: 100, until: None };
    for word in words {
        let (name, value) = word.split_once('=')?;
        match name {
            "ms" => order.ms = value.parse().ok()?,
            "out" => order.out = value.parse().ok()?,
            "code" => order.code = value.parse().ok()?,
            "fails" => order.fails = value.parse().ok()?,
            "beat" => order.beat = value.parse().ok()?,
            "until" => order.until = Some(value.into()),
            _ => return None,
        }
    }
    Some(order)
}

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| "-".to_owned())
}

fn word_of(path: &str, at: usize) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    // The second word of a stat may hold blanks; what counts stands after it.
    let text = text.rsplit(')').next().unwrap_or_default();
    text.split_whitespace().nth(at).unwrap_or("-").to_owned()
}

fn main() -> ExitCode {
    let Some(order) = order() else { return ExitCode::from(BROKEN) };
    let name = [variable("REEVE_JOB_ID"), variable("REEVE_INDEX"), variable("REEVE_ATTEMPT")].join("_");
    match attempt(&order, &name) {
        Ok(code) => ExitCode::from(code),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            let mark = order.dir.join(format!("dup_{name}_{}", std::process::id()));
            let noted = File::create_new(mark).and_then(|file| file.sync_all());
            ExitCode::from(if noted.is_ok() { TWICE } else { BROKEN })
        }
        Err(_) => ExitCode::from(BROKEN),
    }
}

fn attempt(order: &Order, name: &str) -> io::Result<u8> {
    let mut file = File::options().append(true).create_new(true).open(order.dir.join(name))?;
    let start = format!(
        "S {} {} {} {} {} {} {} {} {} {} {}\n",
        order.run,
        order.key,
        variable("REEVE_JOB_ID"),
        variable("REEVE_INDEX"),
        variable("REEVE_ATTEMPT"),
        variable("REEVE_MACHINE"),
        std::process::id(),
        word_of("/proc/self/stat", 19),
        word_of("/proc/sys/kernel/random/boot_id", 0),
        rustix::process::getuid().as_raw(),
        boot_ns()
    );
    file.write_all(start.as_bytes())?;
    file.sync_data()?;
    write_output(order)?;
    live(order, &mut file)?;
    let number: u64 = variable("REEVE_ATTEMPT").parse().unwrap_or(0);
    let code = if number <= order.fails { order.code } else { 0 };
    file.write_all(format!("F {code} {}\n", boot_ns()).as_bytes())?;
    file.sync_data()?;
    Ok(code)
}

fn write_output(order: &Order) -> io::Result<()> {
    let index = variable("REEVE_INDEX").parse().ok();
    let mut out = io::BufWriter::with_capacity(64 * 1024, io::stdout().lock());
    for line in Output::new(&order.key, index, order.out) {
        out.write_all(&line)?;
    }
    out.flush()
}

/// Beats until its time is over, and the file it waits for is there.
fn live(order: &Order, file: &mut File) -> io::Result<()> {
    let end = boot_ns() + order.ms * 1_000_000;
    let waits = |now: u64| now < end || order.until.as_deref().is_some_and(|path: &Path| !path.exists());
    loop {
        let now = boot_ns();
        if !waits(now) {
            return Ok(());
        }
        file.write_all(format!("B {now}\n").as_bytes())?;
        let rest = if now < end { (end - now) / 1_000_000 + 1 } else { order.beat };
        std::thread::sleep(Duration::from_millis(rest.min(order.beat)));
    }
}
