use proptest::prelude::*;

use super::*;
use crate::Verdict;
use crate::io::{Batch, PacketIo, Received};
use crate::wire::ChecksumState;

const PACKET: [u8; 28] = [
    0x45, 0, 0, 28, 0, 1, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2, // IPv4
    0x03, 0xe8, 0, 53, 0, 8, 0, 0, // UDP
];

fn ethernet(packet: &[u8]) -> Vec<u8> {
    [&[1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 0x08, 0x00], packet].concat()
}

fn capture(link: LinkType, frames: &[(u64, &[u8])]) -> Vec<u8> {
    let mut writer = CaptureWriter::new(Vec::new(), link).unwrap();
    for (nanos, frame) in frames {
        writer.write(Instant::from_nanos(*nanos), frame).unwrap();
    }
    writer.into_inner()
}

fn read(file: &[u8]) -> Result<Vec<CaptureFrame>, CaptureError> {
    CaptureReader::new(file)?.collect()
}

/// A classic header with this magic, in little endian unless the magic says big.
fn header(magic: [u8; 4], link: u8) -> Vec<u8> {
    let mut file = magic.to_vec();
    if magic[0] == 0xa1 {
        file.extend([0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 0, link]);
    } else {
        file.extend([2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, link, 0, 0, 0]);
    }
    file
}

#[test]
fn micro_and_nanoseconds_in_both_byte_orders() {
    let little = [5, 0, 0, 0, 7, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0x45];
    let big = [0, 0, 0, 5, 0, 0, 0, 7, 0, 0, 0, 1, 0, 0, 0, 1, 0x45];
    for (magic, record, nanos) in [
        ([0xd4, 0xc3, 0xb2, 0xa1], little, 5_000_007_000),
        ([0x4d, 0x3c, 0xb2, 0xa1], little, 5_000_000_007),
        ([0xa1, 0xb2, 0xc3, 0xd4], big, 5_000_007_000),
        ([0xa1, 0xb2, 0x3c, 0x4d], big, 5_000_000_007),
    ] {
        let file = [header(magic, 101), record.to_vec()].concat();
        let frames = read(&file).unwrap();
        assert_eq!(frames[0].at, Instant::from_nanos(nanos), "{magic:x?}");
        assert_eq!(frames[0].bytes, [0x45]);
    }
}

#[test]
fn a_frame_cut_by_the_snap_length_is_read() {
    let record = [0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0xff, 0xff, 2, 0, 0x45];
    let file = [header([0xd4, 0xc3, 0xb2, 0xa1], 101), record.to_vec()].concat();
    assert_eq!(read(&file).unwrap()[0].original_len, 0x2_ffff);
}

#[test]
fn errors_name_the_record() {
    let mut file = capture(LinkType::Raw, &[(1, &PACKET), (2, &PACKET)]);
    file.truncate(file.len() - 1);
    let error = read(&file).unwrap_err().to_string();
    assert_eq!(error, "record 2: the file ends in the middle of a record, or the record's length is wrong");
    let record = [0, 0, 0, 0, 0x40, 0x42, 0x0f, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let file = [header([0xd4, 0xc3, 0xb2, 0xa1], 101), record.to_vec()].concat();
    let error = read(&file).unwrap_err().to_string();
    assert_eq!(error, "record 1: the timestamp's fraction 1000000 is a second or more");
    let error = read(&header([0xd4, 0xc3, 0xb2, 0xa1], 113)).unwrap_err().to_string();
    assert!(error.starts_with("record 0: link type 113 is not supported"), "{error}");
    assert!(matches!(read(b"plain text, not a capture"), Err(CaptureError::Header { .. })));
    assert!(matches!(read(b""), Err(CaptureError::Header { .. })));
}

#[test]
fn a_reader_ends_after_an_error() {
    let mut file = capture(LinkType::Raw, &[(1, &PACKET)]);
    file.truncate(file.len() - 1);
    let mut reader = CaptureReader::new(&file[..]).unwrap();
    assert!(reader.next().unwrap().is_err());
    assert!(reader.next().is_none());
}

/// A pcapng file: section, interface of this link type with a timestamp resolution, one packet.
fn pcapng(link: u8, resolution: u8, units: u64, packet: &[u8]) -> Vec<u8> {
    let mut file = vec![0x0a, 0x0d, 0x0d, 0x0a, 28, 0, 0, 0, 0x4d, 0x3c, 0x2b, 0x1a, 1, 0, 0, 0];
    file.extend([0xff; 8]);
    file.extend([28, 0, 0, 0]);
    file.extend([1, 0, 0, 0, 32, 0, 0, 0, link, 0, 0, 0, 0, 0, 4, 0]);
    file.extend([9, 0, 1, 0, resolution, 0, 0, 0, 0, 0, 0, 0, 32, 0, 0, 0]);
    let padded = packet.len().next_multiple_of(4);
    let total = (32 + padded) as u8;
    file.extend([6, 0, 0, 0, total, 0, 0, 0, 0, 0, 0, 0]);
    file.extend(((units >> 32) as u32).to_le_bytes());
    file.extend((units as u32).to_le_bytes());
    file.extend([packet.len() as u8, 0, 0, 0, packet.len() as u8, 0, 0, 0]);
    file.extend(packet);
    file.resize(file.len() + padded - packet.len(), 0);
    file.extend([total, 0, 0, 0]);
    file
}

#[test]
fn pcapng_with_its_timestamp_resolutions() {
    for (resolution, units, nanos) in
        [(6, 5_000_007, 5_000_007_000), (9, 5_000_000_007, 5_000_000_007), (0x80 | 1, 3, 1_500_000_000)]
    {
        let frames = read(&pcapng(101, resolution, units, &PACKET[..27])).unwrap();
        assert_eq!(frames[0].at, Instant::from_nanos(nanos));
        assert_eq!((frames[0].link, &frames[0].bytes[..]), (LinkType::Raw, &PACKET[..27]));
    }
    let error = read(&pcapng(113, 6, 0, &PACKET)).unwrap_err().to_string();
    assert!(error.starts_with("record 1: link type 113"), "{error}");
    let error = read(&pcapng(101, 0, u64::MAX, &PACKET)).unwrap_err().to_string();
    assert!(error.starts_with("record 1: the timestamp"), "{error}");
}

#[test]
fn times_and_lengths_that_do_not_fit_are_refused() {
    let mut writer = CaptureWriter::new(Vec::new(), LinkType::Raw).unwrap();
    assert!(writer.write(Instant::from_secs(u64::from(u32::MAX) + 1), &PACKET).is_err());
    assert!(writer.write(Instant::ZERO, &vec![0; MAX_RECORD as usize + 1]).is_err());
    writer.write(Instant::ZERO, &PACKET).unwrap();
    assert_eq!(read(&writer.into_inner()).unwrap().len(), 1);
}

fn io(file: &[u8]) -> PcapIo<&[u8], Vec<u8>> {
    PcapIo::new(CaptureReader::new(file).unwrap(), Vec::new()).unwrap()
}

#[test]
fn a_batch_holds_packets_of_one_time() {
    let frames: Vec<(u64, &[u8])> = vec![(1, &PACKET), (1, &PACKET), (2, &PACKET)];
    let file = capture(LinkType::Raw, &frames);
    let mut io = io(&file);
    let mut batch = Batch::new(8, 100);
    assert_eq!(io.recv(&mut batch, None).unwrap(), Received::Frames(2));
    assert_eq!(batch.at(), Some(Instant::from_nanos(1)));
    assert_eq!(io.recv(&mut batch, None).unwrap(), Received::Frames(1));
    assert_eq!(batch.at(), Some(Instant::from_nanos(2)));
    assert_eq!(io.recv(&mut batch, None).unwrap(), Received::End);
}

#[test]
fn packets_in_front_of_a_damaged_record_are_delivered() {
    let frames: Vec<(u64, &[u8])> = vec![(1, &PACKET), (1, &PACKET)];
    let file = capture(LinkType::Raw, &frames);
    let mut io = io(&file[..file.len() - 1]);
    let mut batch = Batch::new(8, 100);
    assert_eq!(io.recv(&mut batch, None).unwrap(), Received::Frames(1));
    let error = io.recv(&mut batch, None).unwrap_err().to_string();
    assert!(error.starts_with("record 2: "), "{error}");
    assert_eq!(io.recv(&mut batch, None).unwrap(), Received::End);
}

#[test]
fn ethernet_headers_on_the_way_out() {
    let mut padded = ethernet(&PACKET);
    padded.resize(60, 0);
    let arp = [&[1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 0x08, 0x06][..], &[0; 28]].concat();
    let mut tagged = ethernet(&PACKET);
    tagged.splice(12..12, [0x81, 0x00, 0, 5]);
    let frames: Vec<(u64, &[u8])> = vec![(1, &padded), (1, &arp), (1, &tagged), (1, &padded)];
    let file = capture(LinkType::Ethernet, &frames);
    let mut io = io(&file);
    let mut batch = Batch::new(8, 100);
    assert_eq!(io.recv(&mut batch, None).unwrap(), Received::Frames(3));
    assert_eq!(batch.frames()[0].bytes(), PACKET);
    // The tunnelled packet changes its IP version.
    batch.frames_mut()[2].bytes_mut()[0] = 0x60;
    let next_hop = "10.9.8.7".parse().unwrap();
    let verdicts =
        [Verdict::Reply { next_hop }, Verdict::Transmit { next_hop }, Verdict::Transmit { next_hop }];
    assert_eq!(io.send(&mut batch, &verdicts).unwrap(), 3);
    batch.clear();
    batch.set_at(Some(Instant::from_nanos(9)));
    batch.push().unwrap().set(&PACKET).unwrap();
    io.send(&mut batch, &verdicts[..1]).unwrap();
    assert_eq!(io.counters().skipped, 1);
    assert!(io.capabilities().layer2);
    let out = read(&io.into_output()).unwrap();
    assert_eq!(out[0].bytes[..14], [2, 2, 2, 2, 2, 2, 1, 1, 1, 1, 1, 1, 0x08, 0x00]);
    assert_eq!(out[1].bytes, tagged);
    assert_eq!(out[2].bytes[..14], [1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 0x86, 0xdd]);
    assert_eq!(out[3].bytes[..14], [0x02, 0x01, 10, 9, 8, 7, 0x02, 0, 0, 0, 0, 1, 0x08, 0x00]);
    assert_eq!(out[3].at, Instant::from_nanos(9));
}

#[test]
fn a_partial_checksum_is_finished_before_it_is_written() {
    let file = header([0xd4, 0xc3, 0xb2, 0xa1], 228);
    let mut io = io(&file);
    let mut batch = Batch::new(1, 100);
    let frame = batch.push().unwrap();
    frame.set(&PACKET).unwrap();
    frame.meta.checksum = ChecksumState::Partial { start: 20, offset: 6 };
    io.send(&mut batch, &[Verdict::Transmit { next_hop: "10.0.0.2".parse().unwrap() }]).unwrap();
    let out = read(&io.into_output()).unwrap();
    // Sum of 03e8 + 0035 + 0008, complemented.
    assert_eq!(out[0].bytes[26..], [0xfb, 0xda]);
    assert_eq!(out[0].link, LinkType::Raw);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_written_is_read(frames in prop::collection::vec(
        (0u64..4_000_000_000_000_000_000, prop::collection::vec(any::<u8>(), 0..200)), 0..20), link in 0usize..4) {
        let link = [LinkType::Raw, LinkType::Ipv4, LinkType::Ipv6, LinkType::Ethernet][link];
        let borrowed: Vec<(u64, &[u8])> = frames.iter().map(|(at, bytes)| (*at, &bytes[..])).collect();
        let read: Vec<_> = read(&capture(link, &borrowed)).unwrap();
        prop_assert_eq!(read.len(), frames.len());
        for (frame, (at, bytes)) in read.iter().zip(&frames) {
            prop_assert_eq!((frame.at.as_nanos(), frame.link, &frame.bytes), (*at, link, bytes));
        }
    }

    #[test]
    fn hostile_classic_files_are_survived(damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
                                          cut: prop::sample::Index) {
        let frame = ethernet(&PACKET);
        let mut file = capture(LinkType::Ethernet, &[(1, &frame), (2, &frame), (3, &frame)]);
        survive(&mut file, &damage, cut)?;
    }

    #[test]
    fn hostile_pcapng_files_are_survived(damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
                                         cut: prop::sample::Index) {
        let mut file = pcapng(101, 9, 77, &PACKET);
        survive(&mut file, &damage, cut)?;
    }
}

/// Damages and perhaps cuts the file, then reads it through the backend to its end or first error.
fn survive(
    file: &mut Vec<u8>,
    damage: &[(prop::sample::Index, u8)],
    cut: prop::sample::Index,
) -> Result<(), TestCaseError> {
    for (place, value) in damage {
        let place = place.index(file.len());
        file[place] = *value;
    }
    let keep = cut.index(file.len() * 2);
    file.truncate(keep);
    let Ok(reader) = CaptureReader::new(&file[..]) else { return Ok(()) };
    let mut io = PcapIo::new(reader, Vec::new()).unwrap();
    let mut batch = Batch::new(4, 100);
    for _ in 0..100 {
        match io.recv(&mut batch, None) {
            Ok(Received::Frames(count)) => prop_assert_eq!(count, batch.len()),
            Ok(_) | Err(_) => return Ok(()),
        }
    }
    Err(TestCaseError::fail("more records than the file can hold"))
}
