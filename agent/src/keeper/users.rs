//! Which user an attempt runs as, and what the machine's user database says about that user.
//!
//! A keeper without root runs everything as itself. One with root changes to the job's owner, and never runs anything as
//! root unless it was told that it may.
use crate::guardian::environment::Account;
use crate::guardian::sys::Identity;
use nix::unistd::{User, getgrouplist};
use reeve_protocol::wire::Start;
use std::collections::HashMap;
use std::ffi::CString;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// A user database over the network is asked at most this often about one user.
const REMEMBER: Duration = Duration::from_mins(1);

/// A user as attempts need it.
#[derive(Clone, Debug)]
pub(crate) struct Person {
    pub(crate) account: Rc<Account>,
    pub(crate) uid: u32,
    /// `None`: the keeper's own user, nothing to change.
    pub(crate) identity: Option<Rc<Identity>>,
}

/// What the keeper may do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Powers {
    pub(crate) own_uid: u32,
    pub(crate) allow_root: bool,
}

/// Which user is wanted: by name, or the keeper's own.
#[derive(Debug, PartialEq, Eq)]
enum Choice<'a> {
    Own,
    Named(&'a str),
}

/// Users looked up lately.
pub(crate) struct Users {
    powers: Powers,
    /// Users that anybody may run as.
    open_to_all: Vec<String>,
    own: Person,
    seen: HashMap<String, (Instant, Option<Person>)>,
}

impl Users {
    pub(crate) fn new(allow_root: bool, open_to_all: Vec<String>) -> Self {
        let own_uid = nix::unistd::geteuid();
        let account = match User::from_uid(own_uid) {
            Ok(Some(user)) => account_of(&user),
            // Containers often run as a number that no user database knows.
            _ => Account { name: own_uid.to_string(), home: "/".to_owned(), shell: "/bin/sh".to_owned() },
        };
        let own = Person { account: Rc::new(account), uid: own_uid.as_raw(), identity: None };
        Self {
            powers: Powers { own_uid: own_uid.as_raw(), allow_root },
            open_to_all,
            own,
            seen: HashMap::new(),
        }
    }

    /// The user for an attempt, or why it is refused.
    pub(crate) fn resolve(&mut self, start: &Start) -> Result<Person, String> {
        let own_name = self.own.account.name.clone();
        match choose(start, self.powers, &own_name, &self.open_to_all)? {
            Choice::Own => Ok(self.own.clone()),
            Choice::Named(name) => {
                let person =
                    self.look_up(name).ok_or_else(|| format!("there is no user {name:?} on this machine"))?;
                // A name alone proves nothing: the same name may be another person here. Whoever is open to all, and
                // whomever root names, is meant as this machine's user.
                let as_owner = name == start.owner && !self.open_to_all.iter().any(|open| open == name);
                if as_owner && person.uid != start.owner_uid {
                    return Err(format!(
                        "user {name} is uid {} here and uid {} where the job comes from",
                        person.uid, start.owner_uid
                    ));
                }
                if person.uid == 0 {
                    return if self.powers.allow_root { Ok(self.own.clone()) } else { Err(no_root()) };
                }
                Ok(person)
            }
        }
    }

    fn look_up(&mut self, name: &str) -> Option<Person> {
        if let Some((at, person)) = self.seen.get(name)
            && at.elapsed() < REMEMBER
        {
            return person.clone();
        }
        let person = User::from_name(name).ok().flatten().and_then(|user| {
            let groups = getgrouplist(&CString::new(name).ok()?, user.gid).ok()?;
            Some(Person {
                account: Rc::new(account_of(&user)),
                uid: user.uid.as_raw(),
                identity: Some(Rc::new(Identity {
                    uid: user.uid.as_raw(),
                    gid: user.gid.as_raw(),
                    groups: groups.into_iter().map(nix::unistd::Gid::as_raw).collect(),
                })),
            })
        });
        // Bounded: names come from the network.
        if self.seen.len() > 1000 {
            self.seen.clear();
        }
        self.seen.insert(name.to_owned(), (Instant::now(), person.clone()));
        person
    }
}

fn account_of(user: &User) -> Account {
    Account {
        name: user.name.clone(),
        home: user.dir.to_string_lossy().into_owned(),
        shell: user.shell.to_string_lossy().into_owned(),
    }
}

fn no_root() -> String {
    "this machine does not run attempts as root; it does with allow_root = true in agent.toml and a new keeper".to_owned()
}

fn choose<'a>(
    start: &'a Start,
    powers: Powers,
    own_name: &str,
    open_to_all: &[String],
) -> Result<Choice<'a>, String> {
    let wanted = start.run_as.as_deref();
    if powers.own_uid != 0 {
        return match wanted {
            None => Ok(Choice::Own),
            Some(name) if name == own_name => Ok(Choice::Own),
            Some(name) => {
                Err(format!("this keeper runs as {own_name} without root, so it cannot run as {name:?}"))
            }
        };
    }
    match wanted {
        Some(name) => {
            // Root may become anybody anyway; everybody else only who is open to all.
            let may = name == start.owner || start.owner_uid == 0 || open_to_all.iter().any(|u| u == name);
            if may {
                Ok(Choice::Named(name))
            } else {
                Err(format!(
                    "{:?} may not run as {name:?} here; the agent's run_as list can allow it",
                    start.owner
                ))
            }
        }
        None if start.owner_uid == 0 && powers.allow_root => Ok(Choice::Own),
        None if start.owner_uid == 0 => Err(no_root()),
        None => Ok(Choice::Named(&start.owner)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(owner: &str, owner_uid: u32, run_as: Option<&str>) -> Start {
        Start { owner: owner.into(), owner_uid, run_as: run_as.map(str::to_owned), ..Start::default() }
    }

    #[test]
    fn without_root_everything_runs_as_the_keeper_or_not_at_all() {
        let powers = Powers { own_uid: 1000, allow_root: false };
        let choice = |s: &Start| choose(s, powers, "svc", &[]).map(|c| c == Choice::Own);
        assert_eq!(choice(&start("ana", 1001, None)), Ok(true));
        assert_eq!(choice(&start("ana", 1001, Some("svc"))), Ok(true));
        assert!(choice(&start("ana", 1001, Some("ana"))).unwrap_err().contains("without root"));
    }

    #[test]
    fn with_root_the_owner_is_the_default_and_others_need_leave() {
        let powers = Powers { own_uid: 0, allow_root: false };
        let open = ["svc".to_owned()];
        let named = |s: &Start| match choose(s, powers, "root", &open) {
            Ok(Choice::Named(name)) => Some(name.to_owned()),
            Ok(Choice::Own) => Some("own".to_owned()),
            Err(_) => None,
        };
        assert_eq!(named(&start("ana", 1001, None)).as_deref(), Some("ana"));
        assert_eq!(named(&start("ana", 1001, Some("svc"))).as_deref(), Some("svc"));
        assert_eq!(named(&start("ana", 1001, Some("bob"))), None);
        assert_eq!(named(&start("root", 0, Some("bob"))).as_deref(), Some("bob"));
        assert_eq!(named(&start("root", 0, None)), None);
    }

    #[test]
    fn root_runs_only_where_it_may() {
        let powers = Powers { own_uid: 0, allow_root: true };
        assert_eq!(choose(&start("root", 0, None), powers, "root", &[]), Ok(Choice::Own));
    }

    #[test]
    fn an_unknown_user_or_another_uid_is_refused() {
        let mut users = Users::new(true, Vec::new());
        users.powers.own_uid = 0;
        let unknown = users.resolve(&start("nobody-of-this-name", 4711, None)).unwrap_err();
        assert!(unknown.contains("no user"), "{unknown}");
        let other = users.resolve(&start("root", 4711, None)).unwrap_err();
        assert!(other.contains("uid 0 here"), "{other}");
    }
}
