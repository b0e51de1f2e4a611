//! Distribution, kernel and host name, for people.
use reeve_protocol::text::Clean;

/// Such as `Debian GNU/Linux 12 (bookworm), Linux 6.1.0 x86_64`.
pub(crate) fn describe() -> String {
    let uname = rustix::system::uname();
    let release = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    let word = |text: &std::ffi::CStr| text.to_string_lossy().into_owned();
    let kernel = format!("{} {} {}", word(uname.sysname()), word(uname.release()), word(uname.machine()));
    let full = pretty_name(&release).map_or(kernel.clone(), |name| format!("{name}, {kernel}"));
    Clean::short(&full, 200).into_string()
}

/// The machine's host name.
pub(crate) fn hostname() -> String {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    Clean::short(&name, 64).into_string()
}

fn pretty_name(os_release: &str) -> Option<String> {
    let value = os_release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="))?;
    Some(value.trim_matches(['"', '\'']).to_owned()).filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lose_their_quotes() {
        assert_eq!(pretty_name("ID=x\nPRETTY_NAME=\"Debian 12\"\n").as_deref(), Some("Debian 12"));
        assert_eq!(pretty_name("PRETTY_NAME=\n"), None);
        assert!(describe().contains("Linux"));
        assert!(!hostname().is_empty());
    }
}
