//! Fields of a payload in a worker's command: `{payload.user.id}` inside an argument becomes that field's text, and stays
//! inside that one argument whatever the text is. A script for a shell gets them as positional parameters, so that no text
//! is ever read as a script.
use crate::error::{Code, Problem};
use crate::text::Clean;
use serde_json::Value;

const OPEN: &str = "{payload";

/// A piece of an argument.
#[derive(Debug, PartialEq)]
enum Piece<'a> {
    Text(&'a str),
    /// The path below the payload; empty: the payload itself.
    Field(Vec<&'a str>),
}

/// The pieces of an argument. What only looks like a field is text.
fn pieces(argument: &str) -> Vec<Piece<'_>> {
    let (mut found, mut text, mut from) = (Vec::new(), 0, 0);
    while let Some(at) = argument[from..].find(OPEN).map(|at| from + at) {
        let rest = &argument[at + OPEN.len()..];
        let Some(path) = rest.find('}').map(|end| &rest[..end]).and_then(path_of) else {
            from = at + OPEN.len();
            continue;
        };
        if at > text {
            found.push(Piece::Text(&argument[text..at]));
        }
        text = at + OPEN.len() + path.iter().map(|word| word.len() + 1).sum::<usize>() + 1;
        from = text;
        found.push(Piece::Field(path));
    }
    if text < argument.len() || found.is_empty() {
        found.push(Piece::Text(&argument[text..]));
    }
    found
}

/// `` or `.a.b`: words of letters, digits, `_` and `-`.
fn path_of(text: &str) -> Option<Vec<&str>> {
    if text.is_empty() {
        return Some(Vec::new());
    }
    let plain = |word: &&str| {
        !word.is_empty() && word.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
    };
    let words: Vec<&str> = text.strip_prefix('.')?.split('.').collect();
    words.iter().all(plain).then_some(words)
}

/// Whether any argument names a field.
pub fn names_fields(command: &[String]) -> bool {
    command.iter().any(|argument| pieces(argument).iter().any(|piece| matches!(piece, Piece::Field(_))))
}

/// The command with every field filled in.
///
/// # Errors
/// `bad-value`, naming a field that is missing, or that no argument can carry.
pub fn fill(command: &[String], payload: Option<&Value>) -> Result<Vec<String>, Problem> {
    let one = |argument: &String| {
        pieces(argument).iter().try_fold(String::new(), |text, piece| {
            Ok(match piece {
                Piece::Text(more) => text + more,
                Piece::Field(path) => text + &text_of(path, payload)?,
            })
        })
    };
    command.iter().map(one).collect()
}

/// The argument vector that runs a script with `sh -c`: each field is a positional parameter.
pub fn shell(script: &str) -> Vec<String> {
    let (mut text, mut fields) = (String::new(), Vec::new());
    for piece in pieces(script) {
        match piece {
            Piece::Text(more) => text.push_str(more),
            Piece::Field(path) => {
                let words: String = path.iter().flat_map(|word| [".", word]).collect();
                let field = format!("{OPEN}{words}}}");
                let at = fields.iter().position(|known| *known == field).unwrap_or_else(|| {
                    fields.push(field);
                    fields.len() - 1
                });
                text.extend(["${", &(at + 1).to_string(), "}"]);
            }
        }
    }
    let mut command = vec!["sh".to_owned(), "-c".to_owned(), text, "sh".to_owned()];
    command.append(&mut fields);
    command
}

fn text_of(path: &[&str], payload: Option<&Value>) -> Result<String, Problem> {
    let name = || {
        Clean::short(&format!("payload{}", path.iter().flat_map(|w| [".", w]).collect::<String>()), 200)
            .into_string()
    };
    let found = payload.and_then(|payload| {
        path.iter().try_fold(payload, |value, word| match value {
            Value::Array(list) => word.parse::<usize>().ok().and_then(|at| list.get(at)),
            other => other.get(word),
        })
    });
    match found {
        None | Some(Value::Null) => Err(Problem::new(
            Code::BadValue,
            format!("the worker's command names {}, which the payload lacks", name()),
        )
        .hint("add the field to --payload; reeve worker show NAME shows the command")),
        Some(Value::String(text)) if text.contains('\0') => Err(Problem::new(
            Code::BadValue,
            format!("{} contains a NUL character, which no argument can carry", name()),
        )),
        Some(Value::String(text)) => Ok(text.clone()),
        Some(other) => Ok(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn filled(command: &[&str], payload: &Value) -> Result<Vec<String>, Problem> {
        let command: Vec<String> = command.iter().map(|a| (*a).to_owned()).collect();
        fill(&command, Some(payload))
    }

    #[test]
    fn a_field_stays_in_its_argument_whatever_it_is() {
        let payload = json!({"name": "a b; rm -rf / $(x) \"'", "n": 3, "deep": {"list": [1, {"x": true}]}});
        let got = filled(
            &[
                "resize",
                "--name={payload.name}",
                "{payload.n}x{payload.n}",
                "{payload.deep.list.1.x}",
                "{payload.deep}",
            ],
            &payload,
        );
        let list = r#"{"list":[1,{"x":true}]}"#;
        assert_eq!(got.unwrap(), ["resize", "--name=a b; rm -rf / $(x) \"'", "3x3", "true", list]);
        assert_eq!(filled(&["{payload}"], &json!([1])).unwrap(), ["[1]"]);
    }

    #[test]
    fn what_is_no_field_is_text() {
        for text in [
            "{}",
            "{payload",
            "{payloads}",
            "{payload.}",
            "{payload.a b}",
            "{ payload.a }",
            "{payload..a}",
            "awk '{print}'",
            "",
        ] {
            assert_eq!(filled(&[text], &json!({"a": 1})).unwrap(), [text]);
        }
        assert_eq!(filled(&["{payload.{payload.a}"], &json!({"a": 1})).unwrap(), ["{payload.1"]);
        assert!(!names_fields(&["{x}".to_owned()]) && names_fields(&["-{payload.a}-".to_owned()]));
    }

    #[test]
    fn a_missing_field_is_named() {
        for (payload, argument, name) in [
            (json!({"a": {}}), "{payload.a.b}", "payload.a.b"),
            (json!({"a": null}), "{payload.a}", "payload.a"),
            (json!([1]), "{payload.7}", "payload.7"),
            (json!("text"), "{payload.x}", "payload.x"),
        ] {
            let problem = filled(&[argument], &payload).unwrap_err();
            assert!(problem.is(Code::BadValue) && problem.detail.contains(name), "{problem:?}");
        }
        assert!(fill(&["{payload.a}".to_owned()], None).unwrap_err().detail.contains("payload.a"));
        assert!(filled(&["{payload.a}"], &json!({"a": "x\u{0}y"})).unwrap_err().detail.contains("NUL"));
    }

    #[test]
    fn a_script_gets_fields_as_parameters() {
        let command = shell("echo \"{payload.a}\" {payload.b} {payload.a}");
        assert_eq!(command, ["sh", "-c", "echo \"${1}\" ${2} ${1}", "sh", "{payload.a}", "{payload.b}"]);
        let filled = fill(&command, Some(&json!({"a": "$(touch /x)", "b": "`y`"}))).unwrap();
        assert_eq!(filled[2..], ["echo \"${1}\" ${2} ${1}", "sh", "$(touch /x)", "`y`"]);
    }
}
