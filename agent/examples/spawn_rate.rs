//! How fast a keeper alone starts and ends processes, beside a bare posix_spawn loop in the same run:
//! `cargo run --release --example spawn_rate -- [JOBS] [AT_ONCE]`.
use reeve_protocol::frame::{self, Reader};
use reeve_protocol::ids::TaskId;
use reeve_protocol::wire::{Finished, Forget, Limits, Start, kind};
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

fn main() {
    let number =
        |at: usize, usual: u64| std::env::args().nth(at).and_then(|a| a.parse().ok()).unwrap_or(usual);
    let (jobs, at_once) = (number(1, 10_000), number(2, 2));
    for _ in 0..3 {
        // For a profiler: one side alone.
        if std::env::args().nth(3).is_some_and(|only| only == "keeper") {
            println!("keeper {:.0}/s", keeper(jobs, at_once));
            continue;
        }
        let bare = spawn_loop(jobs, at_once);
        if std::env::args().nth(3).is_some() {
            continue;
        }
        let kept = keeper(jobs, at_once);
        println!("posix_spawn {bare:.0}/s, keeper {kept:.0}/s, ratio {:.2}", kept / bare);
    }
}

/// The library's Command uses posix_spawn here; waits in the order of starting, as a simple loop does.
fn spawn_loop(jobs: u64, at_once: u64) -> f64 {
    let begin = Instant::now();
    let mut running: std::collections::VecDeque<Child> = std::collections::VecDeque::new();
    for _ in 0..jobs {
        if running.len() as u64 >= at_once
            && let Some(mut child) = running.pop_front()
        {
            child.wait().expect("a child can be waited for");
        }
        running.push_back(Command::new("/bin/true").spawn().expect("true can be started"));
    }
    for mut child in running {
        child.wait().expect("a child can be waited for");
    }
    jobs as f64 / begin.elapsed().as_secs_f64()
}

fn keeper(jobs: u64, at_once: u64) -> f64 {
    let dir = std::env::temp_dir().join(format!("reeve-spawn-rate-{}", std::process::id()));
    let agent = std::env::current_exe().expect("this program has a path");
    let agent = agent.ancestors().nth(2).expect("examples lie below the target").join("reeve-agent");
    let mut keeper = Command::new(agent)
        .args(["keeper", "--allow-root", "--linger-s", "1", "--dir"])
        .arg(&dir)
        .stdin(Stdio::null())
        .spawn()
        .expect("the keeper can be started");
    let mut stream = loop {
        match UnixStream::connect(dir.join("keeper.sock")) {
            Ok(stream) => break stream,
            Err(_) => std::thread::sleep(Duration::from_millis(2)),
        }
    };
    let mut out = Vec::new();
    let limits = Limits {
        cpu_milli: at_once as u32 * 1000,
        memory_bytes: 1 << 40,
        machine: "m".into(),
        heard_boot_ms: 0,
    };
    frame::append(kind::LIMITS, 0, &limits, &mut out).expect("small");
    let begin = Instant::now();
    // As a coordinator does: a few jobs are handed ahead of a free slot, never all.
    let (mut sent, mut done, mut reader, mut buffer) = (0, 0, Reader::new(), vec![0; 65_536]);
    while done < jobs {
        while sent < jobs && sent < done + 64 {
            sent += 1;
            frame::append(kind::START, 0, &start(sent), &mut out).expect("small");
        }
        stream.write_all(&out).expect("the keeper listens");
        out.clear();
        let n = stream.read(&mut buffer).expect("the keeper answers");
        assert!(n > 0, "the keeper is gone");
        reader.feed(&buffer[..n]);
        let mut attempts = Vec::new();
        while let Some(frame) = reader.next_frame().expect("whole frames") {
            if frame.kind == kind::FINISHED {
                let end: Finished = frame.decode().expect("a Finished");
                assert_eq!(end.cause.code, 1, "{:?}", end.cause);
                attempts.push(end.attempt);
                done += 1;
            }
        }
        if !attempts.is_empty() {
            frame::append(kind::FORGET, 0, &Forget { attempts }, &mut out).expect("small");
        }
    }
    let rate = jobs as f64 / begin.elapsed().as_secs_f64();
    stream.write_all(&out).expect("the keeper listens");
    drop(stream);
    let _ = keeper.wait();
    let _ = std::fs::remove_dir_all(&dir);
    rate
}

fn start(job: u64) -> Start {
    Start {
        attempt: TaskId::single(job).attempt(1),
        lineage: "l1".into(),
        command: vec!["/bin/true".into()],
        env: (0..20).map(|n| (format!("REEVE_VARIABLE_{n}"), "value".into())).collect(),
        cwd: Some("/".into()),
        owner: "root".into(),
        owner_uid: rustix::process::getuid().as_raw(),
        cpu_milli: 1000,
        grace_ms: 15_000,
        output_cap: 64 << 20,
        ..Start::default()
    }
}
