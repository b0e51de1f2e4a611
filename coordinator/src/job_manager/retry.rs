//! Retry or give up, when, and on whose account (DESIGN D11).
use reeve_protocol::Cause;
use reeve_protocol::cause::Account;

/// Failures of machines and of reeve that are retried without being charged to the job.
pub const LOSS_BUDGET: u32 = 3;
/// Their delays in milliseconds.
const LOSS_DELAYS: [u64; 3] = [0, 1_000, 5_000];
/// First delay of a job's own retry, in milliseconds; doubles each time.
const BASE_MS: u64 = 10_000;
/// Longest delay, in milliseconds.
const CAP_MS: u64 = 600_000;

/// What to do after an attempt that did not end well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Try again after so many milliseconds, on that account.
    After(u64, Account),
    /// It has failed.
    GiveUp,
}

/// Decides after a failed attempt. `tries` and `losses` are the failures before this one; `seed` spreads the delays of
/// jobs that failed together, so that there is no random state to carry.
pub fn decide(cause: &Cause, tries: u32, losses: u32, retries: u32, seed: u64) -> Decision {
    match cause.account() {
        Account::Infrastructure if losses < LOSS_BUDGET => {
            Decision::After(LOSS_DELAYS[losses as usize], Account::Infrastructure)
        }
        Account::Own if tries < retries => Decision::After(backoff(tries, seed), Account::Own),
        Account::Infrastructure | Account::Own | Account::Never => Decision::GiveUp,
    }
}

/// Exponential with "equal jitter": half fixed, half spread.
fn backoff(tries: u32, seed: u64) -> u64 {
    let full = BASE_MS.saturating_mul(1 << tries.min(10)).min(CAP_MS);
    full / 2 + mix(seed ^ u64::from(tries)) % (full / 2 + 1)
}

/// The finaliser of splitmix64 (Steele, Lea, Flood 2014).
const fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_account_pays_for_its_own() {
        let exit = Cause::Exit { code: 1 };
        assert_eq!(decide(&exit, 0, 0, 0, 1), Decision::GiveUp);
        assert!(matches!(decide(&exit, 0, 9, 1, 1), Decision::After(_, Account::Own)));
        assert_eq!(decide(&exit, 1, 0, 1, 1), Decision::GiveUp);
        assert_eq!(decide(&Cause::Lost, 9, 0, 0, 1), Decision::After(0, Account::Infrastructure));
        assert_eq!(decide(&Cause::Lost, 0, 2, 0, 1), Decision::After(5_000, Account::Infrastructure));
        assert_eq!(decide(&Cause::Lost, 0, 3, 9, 1), Decision::GiveUp);
        for never in
            [Cause::Cancelled, Cause::Expired, Cause::Dependency, Cause::Rejected { detail: String::new() }]
        {
            assert_eq!(decide(&never, 0, 0, 9, 1), Decision::GiveUp);
        }
    }

    #[test]
    fn delays_grow_to_the_cap_and_differ_between_jobs() {
        for tries in 0..40 {
            let full = BASE_MS.saturating_mul(1 << tries.min(10)).min(CAP_MS);
            for seed in 0..50 {
                assert!((full / 2..=full).contains(&backoff(tries, seed)));
            }
        }
        assert_ne!(backoff(0, 1), backoff(0, 2));
    }
}
