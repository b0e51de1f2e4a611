//! How fast states change, for the statistics.

/// Changes of state, ten buckets of a second.
#[derive(Clone, Debug, Default)]
pub(super) struct Changes {
    second: u64,
    buckets: [u64; 10],
}

impl Changes {
    /// So many at this time.
    pub(super) fn hit(&mut self, mono: u64, n: u64) {
        self.advance(mono);
        self.buckets[(self.second % 10) as usize] += n;
    }

    fn advance(&mut self, mono: u64) {
        let now = mono / 1000;
        for second in (self.second + 1).max(now.saturating_sub(9))..=now {
            self.buckets[(second % 10) as usize] = 0;
        }
        self.second = self.second.max(now);
    }

    /// The mean of the last ten seconds.
    pub(super) fn per_second(&mut self, mono: u64) -> f64 {
        self.advance(mono);
        self.buckets.iter().sum::<u64>() as f64 / 10.0
    }
}
