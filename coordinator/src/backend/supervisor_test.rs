//! The supervisor against a broker that a test plays.
