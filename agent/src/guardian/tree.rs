//! The process tree of an attempt: who is in it, TERM and KILL to all of it. It decides nothing.
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use std::collections::HashMap;
use std::fs;

/// Asks all below `root` to end: the group of `leader`, and everybody who left it. Each is asked once: a command may
/// count. A stopped process takes its TERM only when it runs again.
pub(crate) fn terminate(root: u32, leader: u32) {
    let everybody = descendants(root);
    let in_group = |pid: &u32| leader > 1 && Stat::read(*pid).is_some_and(|stat| stat.group == leader);
    let others: Vec<u32> = everybody.into_iter().filter(|pid| !in_group(pid)).collect();
    for signal in [Signal::TERM, Signal::CONT] {
        signal_group(leader, signal);
        for pid in &others {
            signal_one(*pid, signal);
        }
    }
}

/// Kills all below `root` that can be seen now. Whoever was born meanwhile is a child of `root` soon, so this is
/// repeated until nobody is left.
pub(crate) fn kill(root: u32, leader: u32) {
    signal_group(leader, Signal::KILL);
    for pid in descendants(root) {
        signal_one(pid, Signal::KILL);
    }
}

/// A signal to the group that `leader` leads.
pub(crate) fn signal_group(leader: u32, signal: Signal) {
    if let Some(pid) = pid(leader) {
        let _ = kill_process_group(pid, signal);
    }
}

/// A signal to one process.
pub(crate) fn signal_one(target: u32, signal: Signal) {
    if let Some(pid) = pid(target) {
        let _ = kill_process(pid, signal);
    }
}

fn pid(raw: u32) -> Option<Pid> {
    Pid::from_raw(raw.cast_signed()).filter(|_| raw > 1)
}

/// Every process below `root`, parents before children.
pub(crate) fn descendants(root: u32) -> Vec<u32> {
    let mut found = children(root);
    let mut at = 0;
    while at < found.len() {
        let more = children(found[at]);
        found.extend(more);
        at += 1;
    }
    found
}

/// The children of every thread of a process.
pub(crate) fn children(pid: u32) -> Vec<u32> {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    let mut found = Vec::new();
    for thread in threads.flatten() {
        match fs::read_to_string(thread.path().join("children")) {
            Ok(list) => found.extend(list.split_ascii_whitespace().filter_map(|w| w.parse::<u32>().ok())),
            // A kernel without CONFIG_PROC_CHILDREN has no such file: look at everybody's parent.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound && thread.path().exists() => {
                return parents().into_iter().filter(|(_, parent)| *parent == pid).map(|(p, _)| p).collect();
            }
            Err(_) => {}
        }
    }
    found
}

fn parents() -> HashMap<u32, u32> {
    let Ok(all) = fs::read_dir("/proc") else { return HashMap::new() };
    all.flatten()
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            Some((pid, Stat::read(pid)?.parent))
        })
        .collect()
}

/// What `/proc/PID/stat` says about a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stat {
    pub(crate) parent: u32,
    pub(crate) group: u32,
    pub(crate) session: u32,
    /// Clock ticks of the process and of its children that were waited for.
    pub(crate) ticks: u64,
    /// Clock ticks after boot.
    pub(crate) start: u64,
    /// Resident pages.
    pub(crate) pages: u64,
}

impl Stat {
    pub(crate) fn read(pid: u32) -> Option<Self> {
        Self::parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    /// The name, second field, may hold blanks and brackets: fields count from the last bracket.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let fields: Vec<&str> = text[text.rfind(')')? + 1..].split_ascii_whitespace().collect();
        let number = |at: usize| fields.get(at - 3).and_then(|f| f.parse::<u64>().ok());
        let used = [14, 15, 16, 17].into_iter().map(number).sum::<Option<u64>>()?;
        Some(Self {
            parent: number(4)? as u32,
            group: number(5)? as u32,
            session: number(6)? as u32,
            ticks: used,
            start: number(22)?,
            pages: number(24)?,
        })
    }
}

/// What is left of an attempt whose guardian is gone: processes of its session while that is led by the command itself,
/// and those that carry the guardian's socket in their environment. Best effort: a process can hide from both. The
/// command's process id alone proves nothing, it may be anybody's by now: `leader` has its birth beside it.
pub(crate) fn leftovers((leader, born): (u32, u64), socket: &str) -> Vec<u32> {
    let led = leader > 1 && born > 0 && Stat::read(leader).is_some_and(|stat| stat.start == born);
    let mut found: Vec<u32> =
        marked().into_iter().filter(|(_, mark)| mark == socket).map(|(pid, _)| pid).collect();
    if led {
        let session = everybody().filter(|pid| Stat::read(*pid).is_some_and(|s| s.session == leader));
        found.extend(session.filter(|pid| !found.contains(pid)).collect::<Vec<_>>());
    }
    found
}

/// Every process that has a guardian's socket in its environment, and that socket.
pub(crate) fn marked() -> Vec<(u32, String)> {
    let name = format!("{}=", super::environment::MARK);
    everybody()
        .filter_map(|pid| {
            let environment = fs::read(format!("/proc/{pid}/environ")).ok()?;
            let mark =
                environment.split(|b| *b == 0).find_map(|entry| entry.strip_prefix(name.as_bytes()))?;
            Some((pid, String::from_utf8_lossy(mark).into_owned()))
        })
        .collect()
}

/// Every process but this one.
fn everybody() -> impl Iterator<Item = u32> {
    let own = std::process::id();
    let all = fs::read_dir("/proc").into_iter().flatten().flatten();
    all.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(move |pid| *pid != own)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_full_of_brackets_does_not_shift_the_fields() {
        let line =
            "42 (a) b (c)) S 7 42 41 0 -1 4194560 1 2 0 0 3 4 5 6 20 0 1 0 999 1000 50 18446744073709551615";
        let wanted = Stat { parent: 7, group: 42, session: 41, ticks: 18, start: 999, pages: 50 };
        assert_eq!(Stat::parse(line), Some(wanted));
        for bad in ["", "1 (x", "1 (x) S 1", "no brackets at all"] {
            assert_eq!(Stat::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn our_own_children_are_found() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let mine = descendants(std::process::id());
        assert!(mine.contains(&child.id()), "{mine:?}");
        assert_eq!(Stat::read(child.id()).unwrap().parent, std::process::id());
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn the_mark_in_the_environment_gives_a_leftover_away() {
        let mark = format!("/nowhere/{}", std::process::id());
        let mut child =
            std::process::Command::new("sleep").arg("60").env("REEVE_GUARDIAN", &mark).spawn().unwrap();
        // The environment of a process is readable a moment after its exec has let the parent go on.
        while leftovers((0, 0), &mark) != [child.id()] {
            assert_eq!(child.try_wait().unwrap(), None);
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn a_process_that_got_the_number_of_a_dead_command_is_nobodys_leftover() {
        let mut bystander = std::process::Command::new("setsid").args(["sleep", "60"]).spawn().unwrap();
        let pid = bystander.id();
        let born = loop {
            match Stat::read(pid) {
                Some(stat) if stat.session == pid => break stat.start,
                _ => assert_eq!(bystander.try_wait().unwrap(), None),
            }
        };
        assert_eq!(leftovers((pid, born), "/nowhere"), [pid], "the command itself");
        assert_eq!(leftovers((pid, born - 1), "/nowhere"), [0; 0], "another process with that number");
        assert_eq!(leftovers((pid, 0), "/nowhere"), [0; 0], "nobody knows when it was born");
        signal_one(pid, Signal::KILL);
        bystander.wait().unwrap();
    }
}
