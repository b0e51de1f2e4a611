//! systemd's watchdog: it hears from this process only while the engine answers, commits included.
use crate::engine::Handle;
use crate::input::Call;
use crate::row::Caller;
use std::time::Duration;

/// What pings, if systemd asked for it.
pub(crate) fn start(handle: &Handle) -> Option<impl Future<Output = ()> + Send + 'static> {
    let limit = sd_notify::watchdog_enabled()?;
    Some(ping(handle.clone(), limit / 2, || {
        if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Watchdog]) {
            tracing::warn!(%error, "systemd's watchdog cannot be reached");
        }
    }))
}

async fn ping(handle: Handle, every: Duration, tell: impl Fn()) {
    loop {
        tokio::time::sleep(every).await;
        // A problem is an answer too, but not that the engine has stopped.
        match handle.ask(&Caller::internal(), Call::ListMachines).await {
            Err(problem) if problem.is(reeve_protocol::Code::Unavailable) => return,
            _ => tell(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::effect::Reply;
    use crate::input::Input;
    use tokio::sync::mpsc;

    #[tokio::test]
    async fn it_pings_after_an_answer_and_ends_with_the_engine() {
        let (handle, mut inputs, callers) = Handle::for_tests();
        let (tx, mut pings) = mpsc::unbounded_channel();
        let task = tokio::spawn(ping(handle, Duration::from_millis(1), move || tx.send(()).unwrap()));
        for _ in 0..3 {
            let Some(Input::Call { ticket, .. }) = inputs.recv().await else { panic!("it asks the engine") };
            assert!(pings.try_recv().is_err(), "no ping before the answer");
            callers.answer(ticket, Ok(Reply::Machines(Vec::new())));
            pings.recv().await.unwrap();
        }
        drop(inputs);
        task.await.unwrap();
    }
}
