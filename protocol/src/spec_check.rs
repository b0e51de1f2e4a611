//! The bounds of a job's description. What passes here can be stored, shown and sent; what a machine lacks is found
//! out later and is the attempt's cause.
use crate::artifact;
use crate::error::{Code, Problem};
use crate::spec::{JobSpec, LostAfter};
use crate::text::Clean;

/// Bytes of one argument (the kernel's own limit, `MAX_ARG_STRLEN`, is 128 KiB).
pub const MAX_ARGUMENT: usize = 128 * 1024 - 1;
/// Bytes of all arguments and variables together: half of a control frame, so that Start always fits one.
pub const MAX_COMMAND: usize = 512 * 1024;
/// Bytes of a message's body.
pub const MAX_MESSAGE: usize = 1024 * 1024;
/// Bytes of the name of a message's header: AMQP has no room for more, and every queue may be moved to a RabbitMQ.
pub const MAX_HEADER_NAME: usize = 255;
/// Bytes of payload, standard input and result, each.
pub const MAX_PAYLOAD: usize = 256 * 1024;
/// Bytes of everything large in a git job, so that its start fits one frame.
const MAX_GIT_START: usize = 768 * 1024;
/// Tasks of one array.
pub const MAX_TASKS: u64 = 10_000_000;
/// Entries of any list or map in a spec.
const MAX_ENTRIES: usize = 1024;

impl JobSpec {
    /// Checks every bound.
    ///
    /// # Errors
    /// The first mistake found, with its code and what to do.
    pub fn validate(&self) -> Result<(), Problem> {
        self.check_source()?;
        if let Some(name) = &self.name {
            check_title("name", name)?;
        }
        check_name("queue", self.queue_name())?;
        if let Some(user) = &self.run_as {
            check_name("run_as", user)?;
        }
        crate::reply_to::check(self.reply_to.as_deref(), self.correlation_id.as_deref())?;
        self.check_command()?;
        self.check_env()?;
        self.check_times()?;
        self.check_lists()?;
        self.resources.exact()?;
        if !(-1_000_000..=1_000_000).contains(&self.priority) {
            return Err(range("priority", f64::from(self.priority), "-1000000 and 1000000"));
        }
        if self.retries.unwrap_or(0) > 1000 {
            return Err(range("retries", f64::from(self.retries.unwrap_or(0)), "0 and 1000"));
        }
        if let Some(array) = self.array
            && (array.is_empty() || array.len() > MAX_TASKS || array.limit == Some(0) || array.to == u32::MAX)
        {
            return Err(Problem::new(
                Code::OutOfRange,
                format!("array {}-{} is not possible", array.from, array.to),
            )
            .hint(format!("from <= to, at most {MAX_TASKS} tasks, limit at least 1")));
        }
        self.check_later()
    }

    fn check_source(&self) -> Result<(), Problem> {
        match (self.command.is_some(), self.worker.is_some(), &self.git) {
            (false, false, None) => Err(Problem::new(
                Code::BadCommand,
                "nothing to run: none of command, worker and git is given",
            )
            .hint(r#"give a command, for example {"command":["sh","-c","echo hi"]}"#)),
            (_, _, Some(git)) => self.check_git(git),
            _ => Ok(()),
        }
    }

    /// A job in a checkout. A queue's worker may bring its command, which is not known here.
    fn check_git(&self, git: &crate::spec::GitSpec) -> Result<(), Problem> {
        git.validate()?;
        if self.command.is_none() && self.worker.is_none() && self.queue.is_none() {
            return Err(Problem::new(
                Code::BadCommand,
                "git says where the code is, but there is no command to run in it",
            )
            .hint(r#"add the command, for example "command":["make","test"]"#));
        }
        if self.cwd.is_some() {
            return Err(Problem::new(
                Code::BadValue,
                "cwd and git contradict each other: the command starts in its checkout",
            )
            .hint("leave cwd out, or name a directory of the repository with git.subdir"));
        }
        let parts =
            [self.stdin.as_ref().map_or(0, String::len), git.patch.as_ref().map_or(0, |p| p.data.len())];
        let command: usize = self.command.iter().flatten().map(String::len).sum();
        let payload = self.payload.as_ref().map_or(0, |p| p.to_string().len());
        if parts.iter().sum::<usize>() + command + payload > MAX_GIT_START {
            return Err(Problem::new(
                Code::TooLarge,
                "command, stdin, payload and patch together are too large",
            )
            .hint("commit the changes to a branch, or let the job read files"));
        }
        Ok(())
    }

    fn check_command(&self) -> Result<(), Problem> {
        let Some(command) = &self.command else { return Ok(()) };
        let bad = |why: String| {
            Err(Problem::new(Code::BadCommand, why)
                .hint(r#"command is the argument vector, program first: ["sh","-c","echo hi"]"#))
        };
        match command.first() {
            None => return bad("command is an empty list".into()),
            Some(program) if program.is_empty() => return bad("the program's name is empty".into()),
            Some(_) => {}
        }
        if let Some(at) = command.iter().position(|a| a.contains('\0')) {
            return bad(format!("argument {at} contains a NUL byte, which no program can receive"));
        }
        if let Some(at) = command.iter().position(|a| a.len() > MAX_ARGUMENT) {
            return Err(Problem::new(
                Code::TooLarge,
                format!("argument {at} has {} bytes; the kernel takes {MAX_ARGUMENT}", command[at].len()),
            )
            .hint("put the data into a file, or into the payload or stdin (256 KiB)"));
        }
        let total: usize = command.iter().map(|a| a.len() + 1).sum();
        if total > MAX_COMMAND {
            return Err(Problem::new(
                Code::TooLarge,
                format!("the command has {total} bytes; at most {MAX_COMMAND} are possible"),
            )
            .hint("put the arguments into a file that the job reads, or submit an array"));
        }
        Ok(())
    }

    fn check_env(&self) -> Result<(), Problem> {
        let bad = |name: &str, why: &str| {
            Err(Problem::new(Code::BadEnv, format!("{:?} {why}", Clean::short(name, 64).as_str()))
                .hint("leave the variable out, or rename it"))
        };
        let mut total = 0;
        for (name, value) in &self.env {
            total += name.len() + value.len() + 2;
            if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
                return bad(
                    name,
                    "cannot be an environment variable: names have no = and no NUL, values no NUL",
                );
            }
            if name == "REEVE" || name.starts_with("REEVE_") {
                return bad(name, "is set by reeve itself")
                    .map_err(|p: Problem| p.hint("use another name; labels are given as REEVE_LABEL_*"));
            }
        }
        if total > MAX_COMMAND {
            return Err(Problem::new(
                Code::TooLarge,
                format!("the environment has {total} bytes; at most {MAX_COMMAND} are possible"),
            ));
        }
        if let Some(cwd) = &self.cwd
            && (!cwd.starts_with('/') || cwd.contains('\0') || cwd.len() > 4096)
        {
            return Err(
                Problem::new(Code::BadValue, "cwd must be an absolute path").hint("write the path from /")
            );
        }
        Ok(())
    }

    fn check_times(&self) -> Result<(), Problem> {
        let year = 31_536_000.0;
        for (field, value, low) in [
            ("timeout_s", self.timeout_s, 0.001),
            ("delay_s", self.delay_s, 0.0),
            ("expires_s", self.expires_s, 0.001),
            ("grace_s", self.grace_s, 0.0),
        ] {
            if let Some(value) = value.filter(|v| !(low..=10.0 * year).contains(v)) {
                return Err(range(field, value, "more than 0 and 10 years"));
            }
        }
        if let Some(LostAfter::Seconds(s)) = self.lost_after_s
            && !(10.0..=year).contains(&s)
        {
            return Err(range("lost_after_s", s, "10 and one year (or \"never\")"));
        }
        self.check_exclusive()?;
        if self.delay_s.is_some() && self.at.is_some() {
            return Err(
                Problem::new(Code::BadValue, "delay_s and at are both given").hint("give one of them")
            );
        }
        Ok(())
    }

    /// An exclusive attempt has ended by its own clock before another may start. That takes its grace, a margin of 5 s, and
    /// long enough between two beats that not every pause of the network ends it.
    fn check_exclusive(&self) -> Result<(), Problem> {
        let least = self.grace_s.unwrap_or(15.0) + 15.0;
        match self.lost_after_s {
            Some(LostAfter::Seconds(s)) if self.exclusive && s < least => Err(Problem::new(
                Code::BadValue,
                format!(
                    "an exclusive job with a grace of {} s needs a lost_after_s of at least {least}",
                    least - 15.0
                ),
            )
            .hint("raise lost_after_s (--lost-after), or lower grace_s")),
            _ => Ok(()),
        }
    }

    fn check_lists(&self) -> Result<(), Problem> {
        for (field, len) in [
            ("on", self.on.len()),
            ("not_on", self.not_on.len()),
            ("labels", self.labels.len()),
            ("env", self.env.len()),
            ("limits", self.limits.len()),
        ] {
            if len > MAX_ENTRIES {
                return Err(range(field, len as f64, "0 and 1024 entries"));
            }
        }
        if self.out.len() > artifact::MAX_GLOBS {
            return Err(range("out", self.out.len() as f64, "0 and 64 patterns"));
        }
        if self.out_max_bytes.is_some_and(|bytes| bytes > artifact::MOST_BYTES) {
            return Err(range("out_max_bytes", self.out_max_bytes.unwrap_or(0) as f64, "0 and 64 GiB"));
        }
        for pattern in &self.out {
            artifact::check_glob(pattern).map_err(|why| {
                let shown = Clean::short(pattern, 64);
                Problem::new(Code::BadValue, format!("out {:?} is no pattern of files: {why}", shown.as_str())).hint(
                    "name files relative to where the command starts, such as 'runs/*.ckpt'; others go into $REEVE_OUT_DIR",
                )
            })?;
        }
        for (key, value) in &self.labels {
            check_name("label", key)?;
            check_title("label value", value)?;
        }
        if self.stdin.as_ref().is_some_and(|s| s.len() > MAX_PAYLOAD) {
            return Err(Problem::new(Code::TooLarge, "stdin has more than 256 KiB")
                .hint("let the job read a file: sh -c 'program < file'"));
        }
        if let Some(payload) = &self.payload
            && serde_json::to_vec(payload).map_or(0, |v| v.len()) > MAX_PAYLOAD
        {
            return Err(Problem::new(Code::TooLarge, "the payload has more than 256 KiB")
                .hint("put it into a file or an object store and pass its name"));
        }
        Ok(())
    }

    /// What CONTRACT has and this version refuses by name instead of ignoring.
    fn check_later(&self) -> Result<(), Problem> {
        let later = [
            ("after", !self.after.is_empty()),
            ("items", self.items.is_some()),
            ("limits", !self.limits.is_empty()),
        ];
        match later.iter().find(|(_, given)| *given) {
            Some((field, _)) => {
                Err(Problem::new(Code::NotYet, format!("{field} is not possible in this version"))
                    .hint("leave the field out"))
            }
            None => Ok(()),
        }
    }
}

/// A word that names something: 1 to 128 of letters, digits and `._-/:@+`, starting with a letter or digit.
///
/// # Errors
/// `bad-name`.
pub fn check_name(what: &str, name: &str) -> Result<(), Problem> {
    let ok = |c: char| c.is_ascii_alphanumeric() || "._-/:@+".contains(c);
    if name.len() <= 128 && name.chars().all(ok) && name.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        return Ok(());
    }
    Err(Problem::new(Code::BadName, format!("{what} {:?} is not usable", Clean::short(name, 64).as_str()))
        .hint("1 to 128 letters, digits and . _ - / : @ +, starting with a letter or digit"))
}

/// Text for people: 1 to 256 characters, none of which can act on a terminal.
///
/// # Errors
/// `bad-name`.
pub fn check_title(what: &str, text: &str) -> Result<(), Problem> {
    let blank = text.trim().is_empty() && what == "name";
    if text.len() <= 256
        && !blank
        && !text.chars().any(|c| crate::text::is_hostile(c) || c == '\n' || c == '\t')
    {
        return Ok(());
    }
    Err(Problem::new(Code::BadName, format!("{what} {:?} is not usable", Clean::short(text, 64).as_str()))
        .hint("at most 256 bytes of printable text on one line, not blank"))
}

/// An idempotency key or a caller's own id: 1 to 128 printable ASCII characters.
///
/// # Errors
/// `bad-key`.
pub fn check_key(what: &str, key: &str) -> Result<(), Problem> {
    if !key.is_empty() && key.len() <= 128 && key.bytes().all(|b| b.is_ascii_graphic() || b == b' ') {
        return Ok(());
    }
    Err(Problem::new(Code::BadKey, format!("{what} is not usable"))
        .hint("1 to 128 printable ASCII characters"))
}

fn range(field: &str, value: f64, bounds: &str) -> Problem {
    Problem::new(Code::OutOfRange, format!("{field} is {value}; it must be between {bounds}"))
        .hint(format!("choose a value between {bounds}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::parse_json;

    fn code(body: &str) -> String {
        match parse_json::<JobSpec>(body.as_bytes()).and_then(|s| s.validate()) {
            Ok(()) => "ok".into(),
            Err(p) => p.code,
        }
    }

    #[test]
    fn every_bound_has_its_code() {
        let cases = [
            (r#"{"command":["true"]}"#, "ok"),
            ("{}", "bad-command"),
            (r#"{"command":[]}"#, "bad-command"),
            (r#"{"command":[""]}"#, "bad-command"),
            (r#"{"command":["a\u0000"]}"#, "bad-command"),
            (r#"{"command":["true"],"name":""}"#, "bad-name"),
            (r#"{"command":["true"],"name":"a\u001b[31m"}"#, "bad-name"),
            (r#"{"command":["true"],"name":"\u202eevil"}"#, "bad-name"),
            (r#"{"command":["true"],"queue":"../x"}"#, "bad-name"),
            (r#"{"command":["true"],"queue":"-x"}"#, "bad-name"),
            (r#"{"command":["true"],"run_as":"svc_1"}"#, "ok"),
            (r#"{"command":["true"],"run_as":"root\n"}"#, "bad-name"),
            (r#"{"command":["true"],"env":{"A=B":"x"}}"#, "bad-env"),
            (r#"{"command":["true"],"env":{"REEVE_JOB_ID":"9"}}"#, "bad-env"),
            (r#"{"command":["true"],"cwd":"x"}"#, "bad-value"),
            (r#"{"command":["true"],"exclusive":true,"lost_after_s":29}"#, "bad-value"),
            (r#"{"command":["true"],"exclusive":true,"lost_after_s":30}"#, "ok"),
            (r#"{"command":["true"],"exclusive":true,"grace_s":1,"lost_after_s":16}"#, "ok"),
            (r#"{"command":["true"],"exclusive":true,"lost_after_s":"never"}"#, "ok"),
            (r#"{"command":["true"],"timeout_s":0}"#, "out-of-range"),
            (r#"{"command":["true"],"timeout_s":-5}"#, "out-of-range"),
            (r#"{"command":["true"],"retries":1000000000}"#, "out-of-range"),
            (r#"{"command":["true"],"priority":2000000}"#, "out-of-range"),
            (r#"{"command":["true"],"array":{"from":5,"to":1}}"#, "out-of-range"),
            (r#"{"command":["true"],"array":{"from":0,"to":4000000000}}"#, "out-of-range"),
            (r#"{"command":["true"],"resources":{"cpus":-1}}"#, "out-of-range"),
            (r#"{"command":["true"],"resources":{"cpu":1}}"#, "unknown-field"),
            (r#"{"command":["true"],"at":"1e9"}"#, "bad-value"),
            (r#"{"command":["true"],"git":{"url":"x"}}"#, "bad-url"),
            (r#"{"command":["true"],"git":{"url":"https://h/r","ref":"-x"}}"#, "bad-ref"),
            (r#"{"command":["true"],"git":{"url":"https://h/r"}}"#, "ok"),
            (r#"{"git":{"url":"https://h/r"}}"#, "bad-command"),
            (r#"{"command":["true"],"cwd":"/x","git":{"url":"https://h/r"}}"#, "bad-value"),
            (r#"{"command":["true"],"git":{"url":"https://h/r","sub":"x"}}"#, "unknown-field"),
            (r#"{"command":["true"],"after":{"ok":[1]}}"#, "not-yet"),
        ];
        for (body, wanted) in cases {
            assert_eq!(code(body), wanted, "{body}");
        }
        let long = format!(r#"{{"command":["{}"]}}"#, "x".repeat(2_000_000));
        assert_eq!(code(&long), "too-large");
        let many = format!(r#"{{"command":["x"{}]}}"#, ",\"yyyyyyyyy\"".repeat(100_000));
        assert_eq!(code(&many), "too-large");
    }
}
