//! From git's words to a class of failure: it decides whether trying again can help. Git has no codes for this, so its
//! English is read; what is not known counts as the network when a server was asked, and as damage when not.
use super::order::What;

/// Looked for in this order: a full disk also breaks connections, and a broken connection also breaks packs.
const KNOWN: &[(What, &[&str])] = &[
    (
        What::Disk,
        &[
            "No space left on device",
            "Disk quota exceeded",
            "Read-only file system",
            "write error",
            "file write error",
        ],
    ),
    (
        What::Auth,
        &[
            "could not read Username",
            "could not read Password",
            "unable to get password",
            "user interactivity",
            "Authentication failed",
            "terminal prompts disabled",
            "error: 401",
            "error: 403",
            "error: 404",
            "Permission denied",
            "Host key verification failed",
            "access denied",
            "epository not found",
            "' not found",
            "does not appear to be a git repository",
            "dubious ownership",
            "does not exist",
        ],
    ),
    (
        What::Ref,
        &[
            "couldn't find remote ref",
            "not our ref",
            "does not allow request for unadvertised object",
            "unable to update url base from redirection",
            "error: 301",
            "error: 302",
            "error: 307",
            "error: 308",
        ],
    ),
    // What git refuses to store: it comes from the repository itself, so no other mirror helps.
    (What::Mismatch, &["fsck error"]),
    (
        What::Network,
        &[
            "Could not resolve host",
            "unable to look up",
            "onnection refused",
            "onnection timed out",
            "onnection reset",
            "onnection closed",
            "Failed to connect",
            "unable to connect",
            "Network is unreachable",
            "too slow",
            "early EOF",
            "unexpected disconnect",
            "RPC failed",
            "hung up unexpectedly",
            "error: 5",
            "error: 429",
            "Empty reply",
            "SSL",
            "certificate",
        ],
    ),
    (
        What::Corrupt,
        &[
            "corrupt",
            "bad object",
            "index-pack failed",
            "unpack-objects",
            "missing blob",
            "missing tree",
            "unable to read",
            "not a git repository",
            "inflate",
            "packfile",
            "invalid object",
            "did not send all necessary objects",
            "bad tree object",
            "not a valid object",
            "bad config",
        ],
    ),
];

/// The class of what git said on its standard error.
pub(super) fn classify(words: &str, asked_a_server: bool) -> What {
    let found = KNOWN.iter().find(|(_, parts)| parts.iter().any(|part| words.contains(part)));
    found.map_or(if asked_a_server { What::Network } else { What::Corrupt }, |(what, _)| *what)
}

/// The line worth showing: the first that says fatal or error, else the last. One that ends in a colon has its reason in
/// the next line.
pub(super) fn gist(words: &str) -> String {
    let lines = || words.lines().map(str::trim).filter(|line| !line.is_empty());
    let telling =
        lines().find(|l| l.starts_with("fatal: ") || l.starts_with("error: ") || l.contains("ERROR"));
    let line = telling.or_else(|| lines().next_back()).unwrap_or("git said nothing");
    let reason = lines().skip_while(|l| *l != line).nth(1).filter(|_| line.ends_with(':'));
    let reason = reason.map_or_else(String::new, |reason| format!(" {reason}"));
    format!("{}{reason}", line.trim_start_matches("fatal: ").trim_start_matches("error: "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_git_fails_has_its_class() {
        for (what, words) in [
            (What::Auth, "fatal: could not read Username for 'https://h': terminal prompts disabled"),
            (What::Auth, "fatal: unable to get password from user"),
            (What::Auth, "fatal: Authentication failed for 'https://h/r/'"),
            (What::Auth, "fatal: unable to access 'http://h/r/': The requested URL returned error: 403"),
            (What::Auth, "fatal: repository 'http://127.0.0.1:1/r/' not found"),
            (
                What::Auth,
                "git@h: Permission denied (publickey).\nfatal: Could not read from remote repository.",
            ),
            (What::Auth, "Host key verification failed.\nfatal: Could not read from remote repository."),
            (What::Auth, "fatal: remote error: access denied or repository not exported: /r"),
            (What::Auth, "fatal: '/nowhere' does not appear to be a git repository"),
            (What::Ref, "fatal: couldn't find remote ref refs/heads/x"),
            (What::Ref, "fatal: remote error: upload-pack: not our ref 0123"),
            (What::Ref, "error: Server does not allow request for unadvertised object 0123"),
            (What::Ref, "fatal: unable to access 'http://h/r/': The requested URL returned error: 302"),
            (What::Network, "fatal: unable to access 'https://h/': Could not resolve host: h"),
            (What::Network, "fatal: unable to access 'http://h/': Failed to connect to h port 80"),
            (What::Network, "error: RPC failed; curl 28 Operation too slow.\nfatal: expected flush"),
            (What::Network, "fetch-pack: unexpected disconnect\nfatal: early EOF\nfatal: index-pack failed"),
            (What::Network, "fatal: unable to access 'http://h/': The requested URL returned error: 503"),
            (What::Network, "fatal: unable to connect to h: h[0: 127.0.0.1]: errno=Connection refused"),
            (What::Disk, "fatal: write error: No space left on device\nfatal: index-pack failed"),
            (What::Corrupt, "error: object file objects/ab is empty\nfatal: loose object ab is corrupt"),
            (
                What::Mismatch,
                "error: object 01: hasDotgit: contains '.git'\nfatal: fsck error in packed object",
            ),
            (What::Corrupt, "fatal: not a git repository: '/c/repo.git'"),
        ] {
            assert_eq!(classify(words, true), what, "{words}");
        }
        assert_eq!(classify("meteor", true), What::Network);
        assert_eq!(classify("meteor", false), What::Corrupt);
    }

    #[test]
    fn the_line_worth_showing_is_the_first_complaint() {
        assert_eq!(gist("remote: hello\nfatal: early EOF\nfatal: x failed"), "early EOF");
        assert_eq!(gist("something\nlast\n"), "last");
        let refused = "fatal: unable to connect to h:\nh[0: ::1]: errno=Connection refused\n\n";
        assert_eq!(gist(refused), "unable to connect to h: h[0: ::1]: errno=Connection refused");
        assert_eq!(gist(""), "git said nothing");
    }
}
