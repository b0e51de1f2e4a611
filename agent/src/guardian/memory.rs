//! What memory a guardian holds while its command runs and nothing happens. There is one for every running job, most of
//! them idle for hours: what starting a command has touched goes back to the kernel once it has been quiet for a while.
use super::{Guardian, Ready, sys};
use crate::peer::SCRATCH;
use std::ops::Range;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// Nothing has happened for so long. Short jobs never get there: giving back and touching again costs 50 us.
const QUIET: Duration = Duration::from_secs(1);
/// Bytes per read of a pipe. Memory of this size comes from the kernel as zeroes: only what is used costs anything.
const UNTOUCHED: usize = 4 * SCRATCH;

/// What is allocated once for the end of the heap, bytes.
const FROM_THE_END: usize = 120 << 10;
/// Up to this size, bytes, the allocator keeps holes by size and fills them with nothing smaller.
const EXACT: usize = 1024;
/// Its sizes differ by so much.
const GRAIN: usize = 16;
/// Most holes of one size.
const MOST_HOLES: usize = 4096;
const PAGE: usize = 4096;

/// Parts of the program and its libraries that are the same in memory as in their files.
static PROGRAM: OnceLock<Vec<Range<usize>>> = OnceLock::new();

/// Since when nothing has happened.
pub(super) struct Calm {
    since: Instant,
    is_done: bool,
}

impl Calm {
    pub(super) fn new() -> Self {
        Self { since: Instant::now(), is_done: false }
    }

    /// When memory is given back if nothing happens before.
    pub(super) fn due(&self) -> Option<Instant> {
        (!self.is_done).then(|| self.since + QUIET)
    }
}

/// The buffer for reading has its full size from here on.
pub(super) fn make(scratch: &mut Vec<u8>) {
    if scratch.is_empty() {
        *scratch = vec![0; UNTOUCHED];
    }
}

/// Looks once, in the zygote, which parts of the program are never written: all guardians inherit the list.
pub(super) fn look() {
    let text = std::fs::read_to_string("/proc/self/smaps").unwrap_or_default();
    let _ = PROGRAM.set(unwritten(&text));
    drop(text);
    sys::trim_heap();
    if cfg!(target_env = "gnu") {
        fill_heap();
    }
}

/// Takes whatever is free between what the zygote has, for good: what a guardian allocates then lies together at the end
/// of the heap, in pages of its own, instead of in a hole of each page, which would be copied for a few bytes.
fn fill_heap() {
    let take = |size: usize| {
        let memory = Vec::<u8>::with_capacity(size);
        let address = std::hint::black_box(memory.as_ptr()).addr();
        std::mem::forget(memory);
        address
    };
    // Too large for any hole, too small for a mapping of its own; never touched, so it costs addresses alone.
    let end = take(FROM_THE_END);
    let mut last = end;
    let halves = (0..).map(|n| (FROM_THE_END / 2) >> n).take_while(|size| *size > EXACT);
    let exact = (0..=EXACT / GRAIN).rev().map(|n| n * GRAIN + GRAIN / 2);
    for size in halves.chain(exact) {
        // Bounded for the sake of allocators that are built otherwise.
        for _ in 0..MOST_HOLES {
            let address = take(size);
            if address > end {
                last = last.max(address + size);
                break;
            }
        }
    }
    // Up to the end of a page.
    take(PAGE - last % PAGE);
}

impl Guardian<'_> {
    /// Gives memory back when nothing has happened for a while.
    #[inline(never)]
    pub(super) fn rest(&mut self, ready: &Ready) {
        if ready.any {
            self.calm = Calm::new();
        } else if self.calm.due().is_some_and(|at| at <= Instant::now()) {
            self.calm.is_done = true;
            self.scratch = Vec::new();
            for client in &mut self.clients {
                client.peer.shrink();
            }
            sys::trim_heap();
            // What is used again is mapped again from the page cache, a few pages instead of all of the start.
            sys::unmap_program(PROGRAM.get().map_or(&[], Vec::as_slice));
            sys::release_stack();
        }
    }
}

/// Mappings of files in the text of `/proc/PID/smaps` that cannot be written and of which no page has been: what the
/// linker has relocated before it was protected is no longer what the file holds.
fn unwritten(smaps: &str) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut candidate = None;
    for line in smaps.lines() {
        if let Some((range, counts)) = head(line) {
            candidate = counts.then_some(range);
        } else if line.strip_prefix("Anonymous:").is_some_and(|rest| rest.trim() == "0 kB") {
            found.extend(candidate.take());
        }
    }
    found
}

/// The first line of a mapping, and whether it is a file's that cannot be written.
fn head(line: &str) -> Option<(Range<usize>, bool)> {
    let mut fields = line.split_ascii_whitespace();
    let (from, to) = fields.next()?.split_once('-')?;
    let range = usize::from_str_radix(from, 16).ok()?..usize::from_str_radix(to, 16).ok()?;
    let (permissions, file) = (fields.next()?, fields.nth(3));
    let counts = permissions.starts_with('r') && &permissions[1..2] == "-" && permissions.ends_with('p');
    Some((range, counts && file.is_some_and(|file| file.starts_with('/'))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_that_nobody_has_written_to_are_unmapped() {
        let part = |head: &str, anonymous: u32| {
            format!(
                "{head}\nRss:                  8 kB\nAnonymous:            {anonymous} kB\nVmFlags: rd mr\n"
            )
        };
        let text = [
            part("00400000-00500000 r--p 00000000 fe:00 42                 /usr/bin/reeve agent", 0),
            part("00500000-00600000 r-xp 00100000 fe:00 42                 /usr/bin/reeve", 0),
            part("00600000-00700000 r--p 00200000 fe:00 42                 /usr/bin/reeve", 32),
            part("00700000-00800000 rw-p 00300000 fe:00 42                 /usr/bin/reeve", 0),
            part("00800000-00900000 r--s 00300000 fe:00 43                 /usr/share/x", 0),
            part("7f0000000000-7f0000001000 r--p 00000000 00:00 0 ", 0),
            part("7fff00000000-7fff00001000 r-xp 00000000 00:00 0          [vdso]", 0),
            part("7fff00001000-7fff00002000 ---p 00000000 fe:00 42         /usr/lib/libc.so.6", 0),
        ];
        assert_eq!(unwritten(&text.concat()), [0x40_0000..0x50_0000, 0x50_0000..0x60_0000]);
        assert_eq!(unwritten("nonsense\n-\nAnonymous: 0 kB\n"), []);
    }

    #[test]
    fn a_program_whose_pages_were_given_back_goes_on() {
        let text = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let parts = unwritten(&text);
        assert!(!parts.is_empty());
        for _ in 0..3 {
            sys::unmap_program(&parts);
            sys::trim_heap();
            assert_eq!(unwritten("Anonymous: 0 kB"), []);
        }
    }
}
