//! Tests of host finding.
