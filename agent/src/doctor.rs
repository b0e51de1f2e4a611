//! `reeve-agent doctor`: one line per thing that has to work, with what to do when it does not. It changes nothing.
use crate::agent::dial;
use crate::agent::local::Link;
use crate::agent::wall;
use crate::config::{CgroupUse, Config, CpuLimit};
use crate::groups::{Bounds, Groups};
use crate::identity::Credentials;
use crate::machine::{cpu, memory, sample};
use reeve_protocol::quic;
use reeve_protocol::text::Clean;
use reeve_protocol::time::Wall;
use reeve_protocol::units::show_bytes;
use reeve_protocol::validity;
use std::fmt;
use std::path::Path;

/// How a check came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grade {
    /// As it should be.
    Good,
    /// Works, with less than there could be.
    Note,
    /// Does not work.
    Bad,
}

/// One line.
#[derive(Clone, Debug)]
pub struct Line {
    /// How it came out.
    pub grade: Grade,
    /// What was looked at.
    pub name: &'static str,
    /// What was found.
    pub found: String,
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let grade = match self.grade {
            Grade::Good => "ok",
            Grade::Note => "note",
            Grade::Bad => "FAIL",
        };
        write!(f, "{grade:<5} {:<12} {}", self.name, Clean::line(&self.found))
    }
}

/// Looks at everything.
pub async fn examine(config: &Config) -> Vec<Line> {
    let mut lines =
        vec![user(config.has_root_keeper()), offered(), tree(), limits(config), disk(&config.data_dir)];
    lines.push(keeper(config).await);
    lines.extend(coordinator(config).await);
    lines
}

fn line(grade: Grade, name: &'static str, found: impl Into<String>) -> Line {
    Line { grade, name, found: found.into() }
}

fn user(root_keeper: bool) -> Line {
    if root_keeper {
        return line(Grade::Good, "user", "the keeper has root: jobs run as their owners");
    }
    line(Grade::Note, "user", "the keeper has no root: every job runs as its user, run_as is refused")
}

fn offered() -> Line {
    let cpus = f64::from(cpu::usable_milli()) / 1000.0;
    line(Grade::Good, "offers", format!("{cpus} cpus, {} of memory", show_bytes(memory::usable())))
}

fn tree() -> Line {
    let children = format!("/proc/self/task/{}/children", std::process::id());
    if Path::new(&children).exists() {
        return line(Grade::Good, "tree", "the kernel lists children; whole process trees can be ended");
    }
    line(Grade::Note, "tree", "the kernel lists no children (CONFIG_PROC_CHILDREN); ending trees is slower")
}

/// Makes the groups that a keeper here would make, and removes them again.
fn limits(config: &Config) -> Line {
    let settings = &config.settings;
    if settings.keeper_dir.is_some() || settings.jobs_cgroup.is_some() {
        return line(Grade::Good, "limits", "the keeper's service sets them; reeve machine show says which");
    }
    let groups = if settings.cgroups == CgroupUse::Off {
        Groups::none("cgroups = \"off\" in agent.toml")
    } else {
        let groups = Groups::open(&format!("doctor{}", std::process::id()), &[], 1);
        groups.close();
        groups
    };
    let bounds = Bounds { processes: settings.processes, cpu_quota: settings.cpu_limit == CpuLimit::Quota };
    let words: Vec<String> =
        groups.words(&bounds).into_iter().map(|(name, word)| format!("{name}: {word}")).collect();
    line(if groups.is_on() { Grade::Good } else { Grade::Note }, "limits", words.join("; "))
}

fn disk(dir: &Path) -> Line {
    let existing = dir.ancestors().find(|d| d.exists()).unwrap_or(Path::new("/"));
    match sample::disk_share(existing) {
        Some(share) if share > 0.95 => line(
            Grade::Bad,
            "disk",
            format!("{} is {:.0} % full; output of jobs will be lost", existing.display(), share * 100.0),
        ),
        Some(share) => {
            line(Grade::Good, "disk", format!("{} is {:.0} % full", existing.display(), share * 100.0))
        }
        None => line(Grade::Bad, "disk", format!("{} cannot be examined", existing.display())),
    }
}

async fn keeper(config: &Config) -> Line {
    let dir = &config.runtime_dir;
    match Link::connect(dir).await {
        Ok(link) => line(
            Grade::Good,
            "keeper",
            format!("process {}, version {}, serves {}", link.hello.pid, link.hello.version, dir.display()),
        ),
        Err(error) if config.settings.keeper_dir.is_some() => line(
            Grade::Bad,
            "keeper",
            format!(
                "none answers in {} ({error}); start its service: systemctl start reeve-keeper",
                dir.display()
            ),
        ),
        Err(error) => line(
            Grade::Note,
            "keeper",
            format!("none answers in {} ({error}); a running agent starts one", dir.display()),
        ),
    }
}

async fn coordinator(config: &Config) -> Vec<Line> {
    let credentials = match Credentials::load(&config.state_dir) {
        Ok(credentials) => credentials,
        Err(error) => return vec![line(Grade::Note, "identity", error.to_string())],
    };
    let identity = &credentials.identity;
    let mut lines = vec![line(
        Grade::Good,
        "identity",
        format!("machine {} ({}) of cluster {}", identity.name, identity.machine, identity.cluster),
    )];
    lines.push(certificate(&credentials.certificate, wall()));
    let tls = quic::client_config(&credentials.ca, vec![credentials.certificate], credentials.key);
    let (tls, endpoint) = match (tls, dial::endpoint()) {
        (Ok(tls), Ok(endpoint)) => (tls, endpoint),
        (Err(error), _) => {
            lines.push(line(Grade::Bad, "identity", error.to_string()));
            return lines;
        }
        (_, Err(error)) => {
            lines.push(line(Grade::Bad, "network", error.to_string()));
            return lines;
        }
    };
    let name = quic::server_name(&identity.cluster);
    for address in &identity.addresses {
        lines.push(match dial::dial(&endpoint, &tls, std::slice::from_ref(address), &name).await {
            Ok((connection, _)) => {
                let rtt = connection.rtt();
                connection.close(quinn::VarInt::from_u32(0), b"doctor");
                line(Grade::Good, "coordinator", format!("{address} answers over UDP in {rtt:.1?}"))
            }
            Err(error) => line(Grade::Bad, "coordinator", unreachable(address, &error).await),
        });
    }
    lines
}

/// Renewed at two thirds of its life, so four fifths mean that something does not work.
fn certificate(der: &[u8], now: i64) -> Line {
    let Some(validity) = validity::of(der) else {
        return line(Grade::Bad, "certificate", "it cannot be read; join again");
    };
    let (from, until) = (Wall(validity.from), Wall(validity.until));
    if now > validity.until || now < validity.from {
        let here = Wall(now);
        let found = format!(
            "good from {from} to {until}, and the clock here says {here}: set the clock, or join again"
        );
        return line(Grade::Bad, "certificate", found);
    }
    let late = validity.from + (validity.until - validity.from) / 5 * 4;
    if now > late {
        let found = format!("good until {until}, and was not renewed: reeve machine show there says why");
        return line(Grade::Bad, "certificate", found);
    }
    line(Grade::Good, "certificate", format!("good until {until}; renewed by itself"))
}

/// Tells apart what a person has to look at: the coordinator answers on the same TCP port that UDP is needed.
async fn unreachable(address: &str, error: &dial::Error) -> String {
    let patience = std::time::Duration::from_secs(3);
    let tcp = tokio::net::TcpStream::connect(dial::with_port(address));
    match tokio::time::timeout(patience, tcp).await {
        Ok(Ok(_)) => format!("{address} answers over TCP but not over UDP: let UDP through ({error})"),
        _ => format!("{error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_good_late_or_over() {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::default();
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2020, 1, 11);
        let der = params.self_signed(&key).unwrap().der().to_vec();
        let day = |n: i64| 1_577_836_800_000 + n * 86_400_000;
        for (at, grade, words) in [
            (day(5), Grade::Good, "good until 2020-01-11"),
            (day(9), Grade::Bad, "was not renewed"),
            (day(11), Grade::Bad, "the clock here says 2020-01-12"),
            (day(-1), Grade::Bad, "set the clock"),
        ] {
            let line = certificate(&der, at);
            assert_eq!(line.grade, grade, "{line}");
            assert!(line.found.contains(words), "{line}");
        }
        assert_eq!(certificate(b"junk", 0).grade, Grade::Bad);
    }

    #[tokio::test]
    async fn a_machine_that_never_joined_gets_notes_and_no_failures() {
        let dir = tempfile::tempdir().unwrap();
        let lines = examine(&Config::below(dir.path())).await;
        let named = |name: &str| lines.iter().find(|l| l.name == name).unwrap();
        assert_eq!(named("identity").grade, Grade::Note);
        assert_eq!(named("keeper").grade, Grade::Note);
        assert!(named("offers").to_string().starts_with("ok    offers"));
    }
}
