//! The loop: keys first, then what the coordinator sends, one tick a second, and frames at a bounded rate. It holds the
//! clock and carries out commands; it decides nothing.
use super::link::Link;
use super::model::Model;
use super::msg::{Command, Kind, Msg, Stamp};
use super::terminal::{self, Screen};
use super::theme::Theme;
use super::update::update;
use super::{Error, Options};
use crate::client::Client;
use crossterm::event::{Event, EventStream, KeyEventKind};
use futures_util::StreamExt;
use reeve_protocol::time::Wall;
use std::io::IsTerminal;
use std::time::{Duration, Instant};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

/// Least time between a frame and one after a key.
const AFTER_KEY: Duration = Duration::from_millis(33);
/// Least time between a frame and one because of news.
const AFTER_NEWS: Duration = Duration::from_millis(100);
/// The same through ssh, where every byte is paid for.
const AFTER_NEWS_REMOTE: Duration = Duration::from_millis(250);
/// Most pieces of news taken before keys are looked at again.
const BURST: usize = 256;

/// Whether the loop goes on.
enum Next {
    On,
    Quit,
}

/// The signals that matter to a program with the terminal.
struct Signals {
    ends: Vec<(i32, Signal)>,
    stop: Signal,
    goes_on: Signal,
}

impl Signals {
    /// Must run inside the runtime, before the terminal is taken: a signal between the two would leave it raw.
    fn listen() -> std::io::Result<Self> {
        let ends =
            [SignalKind::terminate(), SignalKind::hangup(), SignalKind::interrupt(), SignalKind::quit()];
        let raw = |s: rustix::process::Signal| SignalKind::from_raw(s.as_raw());
        Ok(Self {
            ends: ends
                .into_iter()
                .map(|kind| Ok((kind.as_raw_value(), signal(kind)?)))
                .collect::<std::io::Result<_>>()?,
            stop: signal(raw(rustix::process::Signal::TSTP))?,
            goes_on: signal(raw(rustix::process::Signal::CONT))?,
        })
    }

    /// The next signal that ends the console.
    async fn end(ends: &mut [(i32, Signal)]) -> i32 {
        std::future::poll_fn(|context| {
            for (number, stream) in ends.iter_mut() {
                if stream.poll_recv(context).is_ready() {
                    return std::task::Poll::Ready(*number);
                }
            }
            std::task::Poll::Pending
        })
        .await
    }
}

/// The console while it runs.
struct Running {
    model: Model,
    screen: Screen,
    link: Link,
    started: Instant,
    last_frame: Instant,
    /// When the next frame is due; none while nothing has changed.
    due: Option<Instant>,
    after_news: Duration,
}

/// Runs until the user quits.
pub(super) async fn run(client: Client, options: &Options) -> Result<(), Error> {
    if !std::io::stdin().is_terminal() || !std::io::stdout().is_terminal() {
        return Err(Error::NotATerminal);
    }
    let mut signals = Signals::listen().map_err(Error::Signals)?;
    let size = crossterm::terminal::size().map_err(Error::Terminal)?;
    let (news, mut arrived) = mpsc::channel(64);
    let started = Instant::now();
    let mut running = Running {
        model: Model::new(theme(options), jiff::tz::TimeZone::system(), size),
        screen: Screen::enter().map_err(Error::Terminal)?,
        link: Link::new(client, news),
        started,
        last_frame: started,
        due: Some(started),
        after_news: if std::env::var_os("SSH_TTY").is_some() { AFTER_NEWS_REMOTE } else { AFTER_NEWS },
    };
    let mut keys = EventStream::new();
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    loop {
        let due = running.due;
        let frame = async {
            match due {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        let next = tokio::select! {
            biased;
            number = Signals::end(&mut signals.ends) => return Err(Error::Signal(number)),
            _ = signals.stop.recv() => running.suspend()?,
            _ = signals.goes_on.recv() => running.continued()?,
            event = keys.next() => match event {
                Some(Ok(event)) => running.event(event)?,
                Some(Err(error)) => return Err(Error::Terminal(error)),
                None => return Err(Error::Terminal(std::io::ErrorKind::UnexpectedEof.into())),
            },
            () = frame => running.paint()?,
            Some(kind) = arrived.recv() => running.burst(kind, &mut arrived)?,
            _ = tick.tick() => running.take(Kind::Tick, running.after_news)?,
        };
        if matches!(next, Next::Quit) {
            return Ok(());
        }
    }
}

impl Running {
    /// The only reading of clocks in the console.
    fn stamp(&self) -> Stamp {
        Stamp { ms: self.started.elapsed().as_millis() as u64, wall: Wall::now() }
    }

    /// Mouse and focus are not asked for; a terminal that sends them all the same is not listened to.
    fn event(&mut self, event: Event) -> Result<Next, Error> {
        let kind = match event {
            Event::Key(key) if key.kind != KeyEventKind::Release => Kind::Key(key),
            Event::Paste(text) => Kind::Paste(text),
            Event::Resize(width, height) => Kind::Resize(width, height),
            Event::Key(_) | Event::Mouse(_) | Event::FocusGained | Event::FocusLost => return Ok(Next::On),
        };
        self.take(kind, AFTER_KEY)
    }

    /// Takes what has arrived together, so that one frame shows it all.
    fn burst(&mut self, first: Kind, arrived: &mut mpsc::Receiver<Kind>) -> Result<Next, Error> {
        let mut kind = Some(first);
        for _ in 0..BURST {
            let Some(news) = kind.take() else { break };
            if let Next::Quit = self.take(news, self.after_news)? {
                return Ok(Next::Quit);
            }
            kind = arrived.try_recv().ok();
        }
        match kind {
            Some(news) => self.take(news, self.after_news),
            None => Ok(Next::On),
        }
    }

    /// One message in, its commands carried out, a frame asked for.
    fn take(&mut self, kind: Kind, pace: Duration) -> Result<Next, Error> {
        let at = self.stamp();
        let commands = update(&mut self.model, Msg { at, kind });
        self.wants_frame(pace);
        for command in commands {
            match command {
                Command::Quit => return Ok(Next::Quit),
                Command::Redraw => self.screen.forget(),
                Command::Suspend => {
                    self.suspend()?;
                }
                Command::Copy(text) => self.screen.copy(&text).map_err(Error::Terminal)?,
                other => self.link.carry_out(other),
            }
        }
        Ok(Next::On)
    }

    /// A frame soon, but not sooner after the last one than `pace`.
    fn wants_frame(&mut self, pace: Duration) {
        let at = (self.last_frame + pace).max(Instant::now());
        self.due = Some(self.due.map_or(at, |due| due.min(at)));
    }

    /// A failed write means that the terminal is gone.
    fn paint(&mut self) -> Result<Next, Error> {
        (self.due, self.last_frame) = (None, Instant::now());
        self.screen.paint(&self.model).map_err(Error::Terminal)?;
        Ok(Next::On)
    }

    /// Subscriptions go on meanwhile; their news wait in the channel and the sockets.
    fn suspend(&mut self) -> Result<Next, Error> {
        terminal::suspend(&mut self.screen).map_err(Error::Terminal)?;
        self.resized()
    }

    /// Somebody continued us after stopping us from outside: the terminal may have been changed meanwhile.
    fn continued(&mut self) -> Result<Next, Error> {
        self.screen.take().map_err(Error::Terminal)?;
        self.resized()
    }

    /// The size may have changed while nobody told us.
    fn resized(&mut self) -> Result<Next, Error> {
        let (width, height) = crossterm::terminal::size().map_err(Error::Terminal)?;
        self.take(Kind::Resize(width, height), AFTER_KEY)
    }
}

/// Colours and characters, from the options and the environment.
fn theme(options: &Options) -> Theme {
    let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    Theme {
        color: !options.no_color && !set("NO_COLOR"),
        ascii: options.ascii || !speaks_utf8(|n| std::env::var(n).ok()),
    }
}

/// Whether the locale says UTF-8: the first of these that is set decides, as in the C library.
fn speaks_utf8(variable: impl Fn(&str) -> Option<String>) -> bool {
    let locale =
        ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find_map(|n| variable(n).filter(|v| !v.is_empty()));
    locale.is_some_and(|l| {
        let l = l.to_ascii_lowercase();
        l.ends_with("utf-8") || l.ends_with("utf8")
    })
}

#[cfg(test)]
mod tests {
    use super::speaks_utf8;

    #[test]
    fn the_locale_decides_about_ascii() {
        for (all, ctype, lang, wanted) in [
            ("", "", "de_DE.UTF-8", true),
            ("C", "", "de_DE.UTF-8", false),
            ("", "C.utf8", "C", true),
            ("", "", "", false),
            ("en_US.ISO-8859-1", "C.UTF-8", "C.UTF-8", false),
        ] {
            let lookup = |name: &str| {
                Some(match name {
                    "LC_ALL" => all.to_owned(),
                    "LC_CTYPE" => ctype.to_owned(),
                    _ => lang.to_owned(),
                })
            };
            assert_eq!(speaks_utf8(lookup), wanted, "{all} {ctype} {lang}");
        }
    }
}
