//! Tapes as readers see them.
use super::*;

/// A tape of these pieces.
fn tape(parts: &[(u8, &[u8])]) -> Vec<u8> {
    let mut out = Vec::new();
    for (stream, bytes) in parts {
        tape::append(*stream, 1_000, bytes, &mut out);
    }
    out
}

fn read(reader: &mut Reader, tape: &[u8], cut: usize) -> String {
    let mut out = Vec::new();
    for piece in tape.chunks(cut) {
        reader.feed(piece, &mut out);
    }
    reader.finish(&mut out);
    String::from_utf8_lossy(&out).into_owned()
}

const PARTS: &[(u8, &[u8])] = &[(1, b"one\n"), (2, b"oops\n"), (1, b"two\nthr"), (1, b"ee\n")];

#[test]
fn raw_output_is_both_streams_in_order_or_one_of_them() {
    let whole = tape(PARTS);
    for (only, wanted) in [(0, "one\noops\ntwo\nthree\n"), (1, "one\ntwo\nthree\n"), (2, "oops\n")] {
        for cut in [1, 7, 1000] {
            assert_eq!(read(&mut Reader::new(Form::Raw, only, 0, None), &whole, cut), wanted);
        }
    }
}

#[test]
fn the_tail_is_the_last_lines_whatever_the_pieces_were() {
    let whole = tape(PARTS);
    for (lines, wanted) in [
        (0, ""),
        (1, "three\n"),
        (2, "two\nthree\n"),
        (3, "oops\ntwo\nthree\n"),
        (9, "one\noops\ntwo\nthree\n"),
    ] {
        assert_eq!(read(&mut Reader::new(Form::Raw, 0, 0, Some(lines)), &whole, 5), wanted, "{lines}");
    }
    let open = tape(&[(1, b"a\nb\nc")]);
    assert_eq!(read(&mut Reader::new(Form::Raw, 0, 0, Some(1)), &open, 100), "c");
    assert_eq!(read(&mut Reader::new(Form::Raw, 0, 0, Some(2)), &open, 100), "b\nc");
}

#[test]
fn after_the_tail_everything_new_is_given() {
    let mut reader = Reader::new(Form::Raw, 0, 0, Some(1));
    let mut out = Vec::new();
    reader.feed(&tape(PARTS), &mut out);
    assert!(out.is_empty(), "nothing is due before what is there has been read");
    reader.flush_tail(&mut out);
    reader.feed(&tape(&[(1, b"four\n")]), &mut out);
    assert_eq!(out, b"three\nfour\n");
}

#[test]
fn a_gap_is_said_in_both_forms_and_for_each_stream() {
    let mut whole = tape(&[(1, b"head")]);
    tape::append_gap(77, 5, &mut whole);
    for only in [0, 1] {
        let shown = read(&mut Reader::new(Form::Raw, only, 0, None), &whole, 1000);
        assert_eq!(shown, "head\n[reeve: 77 bytes of output were not kept]\n");
    }
    let lines = read(&mut Reader::new(Form::Lines, 2, 0, None), &whole, 1000);
    let gap: LogLine = serde_json::from_str(lines.trim()).unwrap();
    assert_eq!((gap.stream.as_str(), gap.missing, gap.text.as_str()), ("gap", Some(77), ""));
}

#[test]
fn each_piece_says_where_to_go_on_and_going_on_there_loses_and_doubles_nothing() {
    let whole = tape(PARTS);
    let all = read(&mut Reader::new(Form::Lines, 0, 0, None), &whole, 1000);
    let lines: Vec<LogLine> = all.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(lines.len(), PARTS.len());
    assert_eq!(lines.last().unwrap().next, whole.len() as u64);
    for (at, line) in lines.iter().enumerate() {
        let rest = read(&mut Reader::new(Form::Lines, 0, line.next, None), &whole, 3);
        assert_eq!(rest.lines().count(), lines.len() - at - 1);
    }
}

#[test]
fn a_character_cut_by_a_piece_is_put_together_and_rubbish_is_replaced() {
    let text = |parts: &[(u8, &[u8])]| -> String {
        let lines = read(&mut Reader::new(Form::Lines, 0, 0, None), &tape(parts), 1000);
        lines.lines().map(|l| serde_json::from_str::<LogLine>(l).unwrap().text).collect()
    };
    assert_eq!(text(&[(1, b"a\xc3"), (2, b"x"), (1, b"\xa4b")]), "ax\u{e4}b");
    assert_eq!(text(&[(1, b"a\xffb")]), "a\u{FFFD}b");
    assert_eq!(text(&[(1, b"a\xc3")]), "a\u{FFFD}", "a half at the end is shown as what it is");
}

#[test]
fn a_reader_can_go_on_from_a_kept_tape_where_a_live_one_stopped() {
    let whole = tape(PARTS);
    let first = tape(&PARTS[..2]);
    let mut reader = Reader::new(Form::Raw, 0, 0, None);
    let mut out = Vec::new();
    reader.feed(&first, &mut out);
    reader.feed(&whole[first.len()..first.len() + 5], &mut out);
    assert_eq!(reader.position(), first.len() as u64, "half a record does not count");
    reader.skip_to(reader.position());
    reader.feed(&whole, &mut out);
    assert_eq!(out, b"one\noops\ntwo\nthree\n");
}
