//! Which frame may come when in a session. `Hello` has been taken when this begins.
use super::end::End;
use reeve_protocol::frame::{Frame, OPTIONAL};
use reeve_protocol::wire::{close, kind};

/// Where a session stands.
#[derive(Debug, Default)]
pub(super) struct Order {
    machine: bool,
    inventory: bool,
    skipped: u64,
}

impl Order {
    /// Whether a frame may come now. False: it is skipped and counted.
    ///
    /// # Errors
    /// The end of the session.
    pub(super) fn admit(&mut self, frame: &Frame) -> Result<bool, End> {
        match frame.kind {
            kind::BEAT | kind::SAMPLE | kind::LEAVE => {}
            kind::MACHINE if !self.machine => self.machine = true,
            kind::MACHINE => return Err(End::unexpected("a second Machine in one session")),
            kind::INVENTORY | kind::INVENTORY_END if self.inventory => {
                return Err(End::unexpected("a second inventory in one session"));
            }
            kind::INVENTORY
            | kind::STARTED
            | kind::PROGRESS
            | kind::FINISHED
            | kind::RETURNED
            | kind::USAGE
                if self.machine => {}
            kind::INVENTORY_END if self.machine => self.inventory = true,
            other if kind::KNOWN.contains(&other) => {
                return Err(End::unexpected(format!("kind {other} at this point")));
            }
            _ if frame.flags & OPTIONAL != 0 => {
                self.skipped += 1;
                return Ok(false);
            }
            other => {
                return Err(End::new(close::VERSION, format!("kind {other} is not known to this version")));
            }
        }
        Ok(true)
    }

    /// Frames of unknown kinds so far.
    pub(super) const fn skipped(&self) -> u64 {
        self.skipped
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u16, flags: u16) -> Frame {
        Frame { kind, flags, body: Vec::new() }
    }

    /// Feeds kinds until one ends the session; gives its place and code.
    fn run(kinds: &[u16]) -> Option<(usize, u32)> {
        let mut order = Order::default();
        kinds.iter().enumerate().find_map(|(at, k)| order.admit(&frame(*k, 0)).err().map(|e| (at, e.code)))
    }

    #[test]
    fn the_order_of_a_session_is_kept() {
        use kind::*;
        type Case = (&'static [u16], Option<(usize, u32)>);
        let cases: [Case; 12] = [
            (&[BEAT, MACHINE, INVENTORY, INVENTORY, INVENTORY_END, STARTED, FINISHED, BEAT, SAMPLE], None),
            (&[MACHINE, FINISHED, INVENTORY_END], None),
            (&[INVENTORY], Some((0, close::UNEXPECTED))),
            (&[STARTED], Some((0, close::UNEXPECTED))),
            (&[MACHINE, MACHINE], Some((1, close::UNEXPECTED))),
            (&[MACHINE, INVENTORY_END, INVENTORY], Some((2, close::UNEXPECTED))),
            (&[MACHINE, INVENTORY_END, INVENTORY_END], Some((2, close::UNEXPECTED))),
            (&[HELLO], Some((0, close::UNEXPECTED))),
            (&[START], Some((0, close::UNEXPECTED))),
            (&[JOIN], Some((0, close::UNEXPECTED))),
            (&[KEEPER_HELLO], Some((0, close::UNEXPECTED))),
            (&[999], Some((0, close::VERSION))),
        ];
        for (kinds, wanted) in cases {
            assert_eq!(run(kinds), wanted, "{kinds:?}");
        }
    }

    #[test]
    fn an_unknown_optional_kind_is_skipped_and_counted() {
        let mut order = Order::default();
        assert_eq!(order.admit(&frame(999, OPTIONAL)), Ok(false));
        assert_eq!(order.skipped(), 1);
    }
}
