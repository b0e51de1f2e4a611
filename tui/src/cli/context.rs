//! What every command has at hand: the way to the coordinator, standard output, and what the terminal can do.
use super::args::{ColorChoice, Common};
use super::error::Error;
use super::table::Table;
use crate::client::Client;
use crate::host::Places;
use hyper::Method;
use reeve_protocol::Problem;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io::{self, BufWriter, IsTerminal as _, StdoutLock, Write as _};

/// One run of the command line.
pub struct Context {
    host: Option<String>,
    client: Option<Client>,
    out: BufWriter<StdoutLock<'static>>,
    /// `--json`.
    pub json: bool,
    /// Whether states are coloured.
    pub color: bool,
    /// Columns, if standard output is a terminal.
    pub width: Option<usize>,
}

impl Context {
    /// From the flags that every command takes.
    pub fn new(common: &Common) -> Self {
        let terminal = io::stdout().is_terminal();
        let no_color = std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty())
            || std::env::var_os("TERM").is_some_and(|v| v == "dumb");
        let color = match common.color {
            ColorChoice::Auto => terminal && !no_color,
            ColorChoice::Always => true,
            ColorChoice::Never => false,
        };
        Self {
            host: common.host.clone(),
            client: None,
            out: BufWriter::new(io::stdout().lock()),
            json: common.json,
            color,
            width: terminal.then(terminal_width).flatten(),
        }
    }

    /// The client; the coordinator is looked for when it is first needed.
    pub fn client(&mut self) -> Result<Client, Error> {
        if let Some(client) = &self.client {
            return Ok(client.clone());
        }
        let client = Client::new(Places::of_process(self.host.clone()).find()?);
        self.client = Some(client.clone());
        Ok(client)
    }

    /// Asks; with `--json` the answer is printed as it came and `None` is given, so that fields which this version
    /// does not know are not lost.
    pub async fn ask<T: DeserializeOwned>(
        &mut self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<Option<T>, Error> {
        let client = self.client()?;
        let headers: &[(&str, &str)] =
            if body.is_some() { &[("content-type", crate::client::JSON)] } else { &[] };
        let bytes = body.map(serde_json::to_vec).transpose().map_err(|e| unwritable(&e))?;
        let reply = client.call(method, path, headers, bytes.map(Into::into)).await?;
        if self.json {
            self.raw(&reply.body)?;
            self.raw(b"\n")?;
            return Ok(None);
        }
        Ok(Some(reply.json()?))
    }

    /// `GET` by [`Context::ask`].
    pub async fn get<T: DeserializeOwned>(&mut self, path: &str) -> Result<Option<T>, Error> {
        self.ask(Method::GET, path, None::<&()>).await
    }

    /// `POST` by [`Context::ask`].
    pub async fn post<T: DeserializeOwned>(
        &mut self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<Option<T>, Error> {
        self.ask(Method::POST, path, Some(body)).await
    }

    /// One line on standard output.
    pub fn line(&mut self, text: impl AsRef<str>) -> Result<(), Error> {
        self.raw(text.as_ref().as_bytes())?;
        self.raw(b"\n")
    }

    /// Bytes on standard output, as they are.
    pub fn raw(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.out.write_all(bytes).map_err(Error::Output)
    }

    /// A table on standard output, in the terminal's width.
    pub fn table(&mut self, table: &Table) -> Result<(), Error> {
        let text = table.render(self.width, self.color);
        self.raw(text.as_bytes())
    }

    /// A value as one line of JSON.
    pub fn json_line(&mut self, value: &impl Serialize) -> Result<(), Error> {
        let text = serde_json::to_string(value).map_err(|e| unwritable(&e))?;
        self.line(text)
    }

    /// Hands over what is buffered: before anything that waits, and at the end.
    pub fn flush(&mut self) -> Result<(), Error> {
        self.out.flush().map_err(Error::Output)
    }
}

fn unwritable(error: &serde_json::Error) -> Error {
    Problem::new(reeve_protocol::Code::Internal, format!("a value cannot be written as JSON: {error}")).into()
}

/// The width of the terminal on standard output.
fn terminal_width() -> Option<usize> {
    let size = rustix::termios::tcgetwinsize(io::stdout()).ok()?;
    (size.ws_col >= 20).then_some(usize::from(size.ws_col))
}

/// Whether somebody can be asked: questions go to standard error and answers come from standard input.
pub fn can_ask() -> bool {
    io::stdin().is_terminal() && io::stderr().is_terminal()
}
