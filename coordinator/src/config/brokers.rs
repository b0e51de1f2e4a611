//! The tables `[backends.NAME]` of the configuration.
use super::{Error, only_known};
use crate::backend::settings::Settings;
use reeve_protocol::spec_check::check_name;
use std::collections::BTreeMap;

const KEYS: [&str; 5] = ["url", "user", "password_file", "ca", "prefix"];

/// Every broker of the file.
///
/// # Errors
/// What cannot be used, and where it stands.
pub(super) fn parse(table: &toml::Table, place: &str) -> Result<Option<BTreeMap<String, Settings>>, Error> {
    let Some(tables) = table.get("backends") else { return Ok(None) };
    let wrong = |key: &'static str, value: String, why: String| Error::Broker {
        place: place.to_owned(),
        key,
        value,
        why,
    };
    let Some(tables) = tables.as_table() else {
        return Err(wrong("backends", tables.to_string(), "write tables: [backends.NAME]".to_owned()));
    };
    let mut found = BTreeMap::new();
    for (name, value) in tables {
        if check_name("backend", name).is_err() || matches!(name.as_str(), "local" | "memory") {
            let why = "name it with letters, digits and . _ - only, not local or memory";
            return Err(wrong("backends", format!("{name:?}"), why.to_owned()));
        }
        let Some(one) = value.as_table() else {
            return Err(wrong("backends", format!("{name:?}"), "write a table: [backends.NAME]".to_owned()));
        };
        only_known(one, &KEYS, place)?;
        found.insert(name.clone(), broker(one, &wrong)?);
    }
    Ok(Some(found))
}

fn broker(
    one: &toml::Table,
    wrong: &impl Fn(&'static str, String, String) -> Error,
) -> Result<Settings, Error> {
    let word = |key: &'static str| match one.get(key) {
        None => Ok(None),
        Some(toml::Value::String(text)) => Ok(Some(text.clone())),
        Some(other) => Err(wrong(key, other.to_string(), "write a text in quotes".to_owned())),
    };
    let url = word("url")?.unwrap_or_default();
    // What is wrong with a URL is told without it: it may hold a password by mistake.
    let mut settings =
        Settings::parse(&url).map_err(|problem| wrong("url", "as given".to_owned(), problem.to_string()))?;
    settings.user = word("user")?;
    for (key, slot) in [("password_file", &mut settings.password_file), ("ca", &mut settings.ca)] {
        *slot = word(key)?.map(Into::into);
        if slot.as_ref().is_some_and(|path| !path.is_absolute()) {
            return Err(wrong(key, "as given".to_owned(), "write an absolute path".to_owned()));
        }
    }
    if let Some(prefix) = word("prefix")? {
        if check_name("prefix", &prefix).is_err() {
            return Err(wrong(
                "prefix",
                format!("{prefix:?}"),
                "use letters, digits and . _ - only".to_owned(),
            ));
        }
        settings.prefix = prefix;
    }
    Ok(settings)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Result<Option<BTreeMap<String, Settings>>, String> {
        parse(&text.parse().unwrap(), "c.toml").map_err(|e| e.to_string())
    }

    #[test]
    fn brokers_have_names_places_and_files_with_secrets() {
        let found = of("[backends.fast]\nurl = \"redis://q.lab:7000/2\"\nuser = \"reeve\"\npassword_file = \"/etc/p\"\nprefix = \"lab\"")
            .unwrap()
            .unwrap();
        let fast = &found["fast"];
        assert_eq!((fast.to_string().as_str(), fast.prefix.as_str()), ("redis://q.lab:7000/2", "lab"));
        assert_eq!(fast.password_file.as_deref(), Some(std::path::Path::new("/etc/p")));
        assert_eq!(of("name = \"x\""), Ok(None));
    }

    #[test]
    fn mistakes_say_where_and_never_show_a_password() {
        for (text, wanted) in [
            ("backends = 1", "[backends.NAME]"),
            ("[backends]\nx = 1", "[backends.NAME]"),
            ("[backends.local]\nurl = \"redis://h\"", "not local"),
            ("[backends.x]\nurll = \"redis://h\"", "url"),
            ("[backends.x]\nurl = \"redis://:hush@h\"", "no password"),
            ("[backends.x]\nurl = \"redis://h\"\nuser = 7", "in quotes"),
            ("[backends.x]\nurl = \"redis://h\"\nca = \"x.pem\"", "absolute path"),
            ("[backends.x]\nurl = \"redis://h\"\nprefix = \"a b\"", "letters"),
            ("[backends.x]\nuser = \"u\"", "no URL"),
        ] {
            let error = of(text).unwrap_err();
            assert!(error.contains(wanted) && !error.contains("hush"), "{text}: {error}");
        }
    }
}
