//! From what `git ls-remote` says to one commit. Pure, and the same for the command line and for machines.
use crate::git::is_commit;

/// Why a ref names no commit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unresolved {
    /// Nothing has this name.
    #[error("the repository has no branch and no tag {0:?}; a commit needs all of its digits")]
    Absent(String),
    /// A branch and a tag have it, and mean different commits.
    #[error("{0:?} is a branch and a tag with different commits; write refs/heads/{0} or refs/tags/{0}")]
    Ambiguous(String),
    /// There is not even a HEAD.
    #[error("the repository is empty")]
    Empty,
}

/// The names to ask `git ls-remote` for.
pub fn wanted(reference: Option<&str>) -> Vec<String> {
    match reference {
        None | Some("HEAD") => vec!["HEAD".to_owned()],
        Some(name) if name.starts_with("refs/") => vec![name.to_owned(), format!("{name}^{{}}")],
        Some(name) => {
            vec![format!("refs/heads/{name}"), format!("refs/tags/{name}"), format!("refs/tags/{name}^{{}}")]
        }
    }
}

/// The commit that a ref names, from the lines `ID<tab>NAME` of `git ls-remote`. Patterns match the ends of names there,
/// so names are compared whole here. Of a tag with a message the commit behind it counts.
///
/// # Errors
/// [`Unresolved`].
pub fn resolve(listing: &str, reference: Option<&str>) -> Result<String, Unresolved> {
    let find = |name: &str| {
        let mut lines = listing.lines().filter_map(|line| line.split_once('\t'));
        lines.find(|(id, found)| *found == name && is_commit(id)).map(|(id, _)| id.to_owned())
    };
    let peeled = |name: &str| find(&format!("{name}^{{}}")).or_else(|| find(name));
    let Some(name) = reference.filter(|name| *name != "HEAD") else {
        return find("HEAD").ok_or(Unresolved::Empty);
    };
    if name.starts_with("refs/") {
        return peeled(name).ok_or_else(|| Unresolved::Absent(name.to_owned()));
    }
    match (find(&format!("refs/heads/{name}")), peeled(&format!("refs/tags/{name}"))) {
        (Some(branch), Some(tag)) if branch != tag => Err(Unresolved::Ambiguous(name.to_owned())),
        (Some(commit), _) | (None, Some(commit)) => Ok(commit),
        (None, None) => Err(Unresolved::Absent(name.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ref_is_found_by_its_whole_name_and_tags_are_peeled() {
        let id = |digit: char| digit.to_string().repeat(40);
        let lines: String = [
            ('a', "HEAD"),
            ('a', "refs/heads/main"),
            ('b', "refs/heads/x/refs/heads/dev"),
            ('c', "refs/tags/v1"),
            ('d', "refs/tags/v1^{}"),
            ('e', "refs/heads/both"),
            ('f', "refs/tags/both"),
            ('1', "refs/heads/same"),
            ('1', "refs/tags/same"),
        ]
        .map(|(digit, name)| format!("{}\t{name}\n", id(digit)))
        .concat();
        let absent = |name: &str| Err(Unresolved::Absent(name.to_owned()));
        for (reference, wanted) in [
            (None, Ok(id('a'))),
            (Some("HEAD"), Ok(id('a'))),
            (Some("main"), Ok(id('a'))),
            (Some("dev"), absent("dev")),
            (Some("v1"), Ok(id('d'))),
            (Some("refs/tags/v1"), Ok(id('d'))),
            (Some("both"), Err(Unresolved::Ambiguous("both".to_owned()))),
            (Some("refs/heads/both"), Ok(id('e'))),
            (Some("same"), Ok(id('1'))),
            (Some("abc1234"), absent("abc1234")),
        ] {
            assert_eq!(resolve(&lines, reference), wanted, "{reference:?}");
        }
        assert_eq!(resolve("", None), Err(Unresolved::Empty));
        assert_eq!(resolve("garbage\tHEAD\n", None), Err(Unresolved::Empty));
    }

    #[test]
    fn only_what_can_be_meant_is_asked_for() {
        assert_eq!(wanted(None), ["HEAD"]);
        assert_eq!(wanted(Some("v1")), ["refs/heads/v1", "refs/tags/v1", "refs/tags/v1^{}"]);
        assert_eq!(wanted(Some("refs/heads/x")), ["refs/heads/x", "refs/heads/x^{}"]);
    }
}
