//! Reads three fields of a certificate: when it begins and ends, and its public key. Any bytes give these fields or `None`.

use std::time::Duration;

use tern_protocol::Timestamp;

const SEQUENCE: u8 = 0x30;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
/// The optional version in front.
const CONTEXT_0: u8 = 0xa0;

/// What is read.
#[derive(Debug)]
pub(super) struct Fields<'a> {
    pub not_before: Timestamp,
    pub not_after: Timestamp,
    /// The whole `SubjectPublicKeyInfo`.
    pub public_key: &'a [u8],
}

/// One element: its tag, its content, and the whole of it.
struct Element<'a> {
    tag: u8,
    content: &'a [u8],
    whole: &'a [u8],
}

/// Reads a DER certificate.
///
/// # Source
/// RFC 5280 section 4.1: version, serialNumber, signature, issuer, validity, subject, subjectPublicKeyInfo.
pub(super) fn read(certificate: &[u8]) -> Option<Fields<'_>> {
    let mut outer = take(&mut { certificate }, SEQUENCE)?.content;
    let mut rest = take(&mut outer, SEQUENCE)?.content;
    if rest.first() == Some(&CONTEXT_0) {
        next(&mut rest)?;
    }
    let _serial = next(&mut rest)?;
    let _signature = take(&mut rest, SEQUENCE)?;
    let _issuer = take(&mut rest, SEQUENCE)?;
    let mut validity = take(&mut rest, SEQUENCE)?.content;
    let _subject = take(&mut rest, SEQUENCE)?;
    let public_key = take(&mut rest, SEQUENCE)?.whole;
    Some(Fields { not_before: time(&next(&mut validity)?)?, not_after: time(&next(&mut validity)?)?, public_key })
}

fn take<'a>(bytes: &mut &'a [u8], tag: u8) -> Option<Element<'a>> {
    next(bytes).filter(|element| element.tag == tag)
}

fn next<'a>(bytes: &mut &'a [u8]) -> Option<Element<'a>> {
    let whole = *bytes;
    let (&[tag, first], mut rest) = whole.split_first_chunk::<2>()?;
    let mut size = usize::from(first);
    if first >= 0x80 {
        // Long form: so many bytes of length. A certificate of 16 MiB is not read.
        let count = usize::from(first & 0x7f);
        let (length, after) = rest.split_at_checked(count).filter(|_| (1..=3).contains(&count))?;
        size = length.iter().fold(0, |size, byte| size << 8 | usize::from(*byte));
        rest = after;
    }
    let (content, after) = rest.split_at_checked(size)?;
    *bytes = after;
    let (whole, _) = whole.split_at_checked(whole.len() - after.len())?;
    Some(Element { tag, content, whole })
}

/// `YYMMDDHHMMSSZ` or `YYYYMMDDHHMMSSZ`; RFC 5280 section 4.1.2.5.
fn time(element: &Element<'_>) -> Option<Timestamp> {
    let digits = element.content.strip_suffix(b"Z")?;
    let number =
        |digits: &[u8]| digits.iter().try_fold(0, |n: u64, d| d.is_ascii_digit().then(|| n * 10 + u64::from(d - b'0')));
    let (year, rest) = match element.tag {
        UTC_TIME => {
            let (year, rest) = digits.split_at_checked(2)?;
            let year = number(year)?;
            (if year < 50 { 2000 + year } else { 1900 + year }, rest)
        }
        GENERALIZED_TIME => {
            let (year, rest) = digits.split_at_checked(4)?;
            (number(year)?, rest)
        }
        _ => return None,
    };
    let mut parts = rest.chunks_exact(2).map(number);
    let mut part = || parts.next().flatten();
    let (month, day, hour, minute, second) = (part()?, part()?, part()?, part()?, part()?);
    let days = days_since_1970(year, month, day)?;
    Some(Timestamp::ZERO.after(Duration::from_secs(((days * 24 + hour) * 60 + minute) * 60 + second)))
}

/// Days of the proleptic Gregorian calendar; `None` before 1970 and for months that are none.
///
/// # Source
/// Howard Hinnant, chrono-Compatible Low-Level Date Algorithms: days_from_civil. Years begin in March there.
fn days_since_1970(year: u64, month: u64, day: u64) -> Option<u64> {
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    let year = year.checked_sub(u64::from(month <= 2))?;
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let days = year * 365 + year / 4 - year / 100 + year / 400 + day_of_year;
    days.checked_sub(719_468)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(tag: u8, text: &str) -> Option<u64> {
        time(&Element { tag, content: text.as_bytes(), whole: &[] }).map(|time| time.raw() / 1_000_000)
    }

    /// Values of `date -u -d ... +%s`.
    #[test]
    fn times_are_those_of_the_calendar() {
        assert_eq!(seconds(UTC_TIME, "700101000000Z"), Some(0));
        assert_eq!(seconds(UTC_TIME, "240229235959Z"), Some(1_709_251_199));
        assert_eq!(seconds(GENERALIZED_TIME, "20500101000000Z"), Some(2_524_608_000));
        for bad in ["", "Z", "24022923595Z", "241329235959Z", "2402292359590", "24xx29235959Z", "690101000000Z"] {
            assert_eq!(seconds(UTC_TIME, bad), None, "{bad}");
        }
    }

    #[test]
    fn no_bytes_make_it_panic() {
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = rcgen::CertificateParams::new(vec!["localhost".into()]).unwrap().self_signed(&key).unwrap();
        let der = certificate.der();
        assert!(read(der).is_some());
        for at in 0..der.len() {
            assert!(read(&der[..at]).is_none());
            for bit in 0..8 {
                let mut broken = der.to_vec();
                broken[at] ^= 1 << bit;
                let _ = read(&broken);
            }
        }
    }
}
