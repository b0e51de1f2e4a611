//! `reeve-agent doctor`: one line per thing that has to work, with what to do when it does not. It changes nothing.
use crate::agent::dial;
use crate::agent::local::Link;
use crate::config::Config;
use crate::identity::Credentials;
use crate::machine::{cpu, memory, sample};
use reeve_protocol::quic;
use reeve_protocol::text::Clean;
use reeve_protocol::units::show_bytes;
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
    let mut lines = vec![user(config.has_root_keeper()), offered(), tree(), disk(&config.data_dir)];
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
