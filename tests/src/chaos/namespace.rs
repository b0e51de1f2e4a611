//! A network namespace as a machine of its own, joined to this one by a cable: what runs there reaches nothing here but
//! the other end of its cable, where its proxy listens.
use super::Failure;
use std::net::Ipv4Addr;
use std::process::Command;

/// One namespace; it goes when this is dropped.
pub struct Namespace {
    name: String,
    cable: String,
    /// This side of the cable.
    pub here: Ipv4Addr,
}

impl Namespace {
    /// Number `at` of this process.
    ///
    /// # Errors
    /// When this user or this machine may not.
    pub fn new(at: usize) -> Result<Self, Failure> {
        // 10.214.0.0/16 in nets of four addresses; processes at the same time differ in their ids. One that was killed may
        // have left its own behind: then the next number that is free.
        let first = std::process::id() as usize * 16 + at;
        let mut further = 0;
        let net = loop {
            let net = (first + 311 * further) % 16_384;
            match ip(&format!("netns add rvc{net}")) {
                Ok(()) => break net,
                Err(error) if further < 64 && error.contains("File exists") => further += 1,
                Err(error) => return Err(error),
            }
        };
        let (name, cable, far) = (format!("rvc{net}"), format!("rvch{net}"), format!("rvcn{net}"));
        let address = |last: usize| Ipv4Addr::new(10, 214, (net / 64) as u8, (net % 64 * 4 + last) as u8);
        let (here, there) = (address(1), address(2));
        let made = Self { name: name.clone(), cable: cable.clone(), here };
        ip(&format!("link add {cable} type veth peer name {far} netns {name}"))?;
        ip(&format!("addr add {here}/30 dev {cable}"))?;
        ip(&format!("link set {cable} up"))?;
        ip(&format!("netns exec {name} ip addr add {there}/30 dev {far}"))?;
        ip(&format!("netns exec {name} ip link set {far} up"))?;
        ip(&format!("netns exec {name} ip link set lo up"))?;
        Ok(made)
    }

    /// What stands before a command to run it there.
    pub fn prefix(&self) -> Vec<String> {
        ["ip", "netns", "exec", &self.name].map(str::to_owned).to_vec()
    }

    /// Pulls the cable, or plugs it in.
    pub fn cable(&self, is_in: bool) {
        let _ = ip(&format!("link set {} {}", self.cable, if is_in { "up" } else { "down" }));
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = ip(&format!("netns delete {}", self.name));
    }
}

fn ip(line: &str) -> Result<(), Failure> {
    let output = Command::new("ip").args(line.split(' ')).output().map_err(|e| format!("ip: {e}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("ip {line}: {}", String::from_utf8_lossy(&output.stderr).trim()))
}
