//! Which frame may come when in a session. `Hello` has been taken when this begins.
use super::end::End;
use crate::input::AgentSaid;
use reeve_protocol::frame::{Frame, OPTIONAL};
use reeve_protocol::wire::{close, kind};

/// Attempts in a whole inventory: pages without end would fill the memory.
const INVENTORY: usize = 100_000;

/// Where a session stands.
#[derive(Debug, Default)]
pub(super) struct Order {
    machine: bool,
    inventory: bool,
    items: usize,
    skipped: u64,
}

impl Order {
    /// Whether a frame may come now. False: it is skipped and counted.
    ///
    /// # Errors
    /// The end of the session.
    pub(super) fn admit(&mut self, frame: &Frame) -> Result<bool, End> {
        match frame.kind {
            kind::BEAT
            | kind::SAMPLE
            | kind::LEAVE
            | kind::RENEW
            | kind::RENEWAL_KEPT
            | kind::RENEWAL_FAILED => {}
            kind::MACHINE if !self.machine => self.machine = true,
            kind::MACHINE => return Err(End::unexpected("a second Machine in one session")),
            kind::INVENTORY | kind::INVENTORY_END if self.inventory => {
                return Err(End::unexpected("a second inventory in one session"));
            }
            kind::INVENTORY
            | kind::STARTED
            | kind::PREPARING
            | kind::RESOLVED
            | kind::PROGRESS
            | kind::FINISHED
            | kind::RETURNED
            | kind::USAGE
            | kind::EXITED
            | kind::TAKING
            | kind::ENFORCED
            | kind::REPLICAS
            | kind::ANSWERS
            | kind::IN_FLIGHT
            | kind::GPUS
            | kind::QUIET
            | kind::ARTIFACTS
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

    /// A page of the inventory, or its end, which must name as many attempts as all pages had.
    ///
    /// # Errors
    /// The end of the session.
    pub(super) fn inventory(&mut self, said: &AgentSaid) -> Result<(), End> {
        match said {
            AgentSaid::Inventory(items) => {
                self.items += items.len();
                super::decode::limit("the inventory", self.items, INVENTORY)
            }
            AgentSaid::InventoryEnd(count) if *count as usize != self.items => {
                let reason = format!("an inventory of {count} attempts had {}", self.items);
                Err(End::new(close::MALFORMED, reason))
            }
            _ => Ok(()),
        }
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
    fn an_inventory_ends_somewhere_and_says_how_long_it_was() {
        let item = |job| reeve_protocol::wire::InventoryItem {
            attempt: reeve_protocol::TaskId::single(job).attempt(1),
            lineage: String::new(),
            phase: 1,
            pid: 1,
            started_ms: 0,
        };
        let page = AgentSaid::Inventory((0..1000).map(item).collect());
        let mut order = Order::default();
        for _ in 0..INVENTORY / 1000 {
            order.inventory(&page).unwrap();
        }
        let code = |end: Result<(), End>| end.err().map(|end| end.code);
        assert_eq!(code(order.inventory(&AgentSaid::InventoryEnd(7))), Some(close::MALFORMED));
        assert_eq!(code(order.inventory(&AgentSaid::InventoryEnd(INVENTORY as u32))), None);
        assert_eq!(code(order.inventory(&page)), Some(close::TOO_LARGE));
    }

    #[test]
    fn an_unknown_optional_kind_is_skipped_and_counted() {
        let mut order = Order::default();
        assert_eq!(order.admit(&frame(999, OPTIONAL)), Ok(false));
        assert_eq!(order.skipped(), 1);
    }
}
