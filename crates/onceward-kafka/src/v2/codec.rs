//! Kafka's primitive types. Reading trusts nothing: every length is held against what is there, and
//! nothing is reserved for a count that the rest could not hold.

/// An answer that is not what it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed answer: {0}")]
pub(super) struct Malformed(pub(super) &'static str);

type Read<T> = Result<T, Malformed>;

/// Reads an answer front to back.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    fn take(&mut self, count: usize) -> Read<&'a [u8]> {
        let (taken, rest) = self
            .0
            .split_at_checked(count)
            .ok_or(Malformed("it ends too early"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Read<[u8; N]> {
        let (taken, rest) = self
            .0
            .split_first_chunk::<N>()
            .ok_or(Malformed("it ends too early"))?;
        self.0 = rest;
        Ok(*taken)
    }

    pub(super) fn i16(&mut self) -> Read<i16> {
        Ok(i16::from_be_bytes(self.array()?))
    }

    pub(super) fn i32(&mut self) -> Read<i32> {
        Ok(i32::from_be_bytes(self.array()?))
    }

    pub(super) fn i64(&mut self) -> Read<i64> {
        Ok(i64::from_be_bytes(self.array()?))
    }

    fn varint(&mut self) -> Read<u32> {
        let mut value = 0;
        for shift in [0, 7, 14, 21, 28] {
            let [byte] = self.array()?;
            value |= u32::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Malformed("a length of more than five bytes"))
    }

    /// A length or count with one added, so that 0 is "none".
    fn compact_length(&mut self) -> Read<Option<usize>> {
        let length = self.varint()?.checked_sub(1);
        let length = length.map(|length| usize::try_from(length).unwrap_or(usize::MAX));
        // Everything counted takes a byte at least.
        if length.is_some_and(|length| length > self.0.len()) {
            return Err(Malformed("a length beyond its end"));
        }
        Ok(length)
    }

    pub(super) fn bytes(&mut self) -> Read<Option<&'a [u8]>> {
        match self.compact_length()? {
            Some(length) => self.take(length).map(Some),
            None => Ok(None),
        }
    }

    pub(super) fn text(&mut self) -> Read<Option<&'a str>> {
        self.bytes()?
            .map(|bytes| std::str::from_utf8(bytes).map_err(|_| Malformed("text is not UTF-8")))
            .transpose()
    }

    /// Text with a two-byte length, as messages without tagged fields have it.
    pub(super) fn classic_text(&mut self) -> Read<&'a str> {
        let length = usize::try_from(self.i16()?).map_err(|_| Malformed("a negative length"))?;
        std::str::from_utf8(self.take(length)?).map_err(|_| Malformed("text is not UTF-8"))
    }

    /// How many items follow.
    pub(super) fn count(&mut self) -> Read<usize> {
        Ok(self.compact_length()?.unwrap_or(0))
    }

    /// The items of an array.
    pub(super) fn items<T>(&mut self, mut item: impl FnMut(&mut Self) -> Read<T>) -> Read<Vec<T>> {
        let count = self.count()?;
        let mut items = Vec::new();
        for _ in 0..count {
            items.push(item(self)?);
        }
        Ok(items)
    }

    /// The items of an array with a four-byte count.
    pub(super) fn classic_items<T>(
        &mut self,
        mut item: impl FnMut(&mut Self) -> Read<T>,
    ) -> Read<Vec<T>> {
        let count = usize::try_from(self.i32()?).map_err(|_| Malformed("a negative count"))?;
        let mut items = Vec::new();
        for _ in 0..count {
            items.push(item(self)?);
        }
        Ok(items)
    }

    /// Passes an array of numbers.
    pub(super) fn skip_i32s(&mut self) -> Read<()> {
        let count = self.count()?;
        self.take(count.saturating_mul(4)).map(|_| ())
    }

    pub(super) fn skip(&mut self, count: usize) -> Read<()> {
        self.take(count).map(|_| ())
    }

    /// Fields that were added later, by number; each has its length.
    pub(super) fn tagged(
        &mut self,
        mut field: impl FnMut(u32, &mut Reader<'a>) -> Read<()>,
    ) -> Read<()> {
        for _ in 0..self.varint()? {
            let tag = self.varint()?;
            let length = usize::try_from(self.varint()?).unwrap_or(usize::MAX);
            let mut content = Reader(self.take(length)?);
            field(tag, &mut content)?;
        }
        Ok(())
    }

    pub(super) fn skip_tagged(&mut self) -> Read<()> {
        self.tagged(|_, _| Ok(()))
    }
}

/// Bytes of a number as a varint without sign.
pub(super) fn varint_len(value: u64) -> usize {
    // 7 bits a byte; zero takes one as well.
    let bits = usize::try_from(u64::BITS - (value | 1).leading_zeros()).unwrap_or(64);
    bits.div_ceil(7)
}

/// Small negative numbers become small positive ones.
pub(super) fn zigzag(value: i64) -> u64 {
    (value.cast_unsigned() << 1) ^ (value >> 63).cast_unsigned()
}

pub(super) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Writes a request's fields.
pub(super) trait Put {
    fn put_i16(&mut self, value: i16);
    fn put_i32(&mut self, value: i32);
    fn put_i64(&mut self, value: i64);
    fn put_bool(&mut self, value: bool);
    /// A count with one added.
    fn put_count(&mut self, count: usize);
    fn put_text(&mut self, text: &str);
    fn put_bytes(&mut self, bytes: &[u8]);
    fn put_classic_text(&mut self, text: &str);
    fn put_no_tags(&mut self);
}

impl Put for Vec<u8> {
    fn put_i16(&mut self, value: i16) {
        self.extend_from_slice(&value.to_be_bytes());
    }
    fn put_i32(&mut self, value: i32) {
        self.extend_from_slice(&value.to_be_bytes());
    }
    fn put_i64(&mut self, value: i64) {
        self.extend_from_slice(&value.to_be_bytes());
    }
    fn put_bool(&mut self, value: bool) {
        self.push(u8::from(value));
    }
    fn put_count(&mut self, count: usize) {
        put_varint(self, (count as u64).saturating_add(1));
    }
    fn put_text(&mut self, text: &str) {
        self.put_bytes(text.as_bytes());
    }
    fn put_bytes(&mut self, bytes: &[u8]) {
        self.put_count(bytes.len());
        self.extend_from_slice(bytes);
    }
    fn put_classic_text(&mut self, text: &str) {
        // Names of ours, all short; a longer one would be cut, never mis-framed.
        let bytes = text.as_bytes();
        let length = i16::try_from(bytes.len()).unwrap_or(i16::MAX);
        self.put_i16(length);
        self.extend_from_slice(
            bytes
                .get(..usize::from(length.unsigned_abs()))
                .unwrap_or(bytes),
        );
    }
    fn put_no_tags(&mut self) {
        self.push(0);
    }
}

#[cfg(test)]
mod tests {
    use super::{Malformed, Put, Reader, put_varint, varint_len, zigzag};

    #[test]
    fn lengths_of_varints_are_what_is_written() {
        for shift in 0..64 {
            for value in [1_u64 << shift, (1_u64 << shift) - 1] {
                let mut out = Vec::new();
                put_varint(&mut out, value);
                assert_eq!(out.len(), varint_len(value), "{value}");
            }
        }
        assert_eq!([0, -1, 1, -2, i64::MIN].map(zigzag), [0, 1, 2, 3, u64::MAX]);
    }

    #[test]
    fn a_length_beyond_the_end_is_an_error_and_reserves_nothing() {
        let mut out = Vec::new();
        put_varint(&mut out, u64::from(u32::MAX));
        out.extend([1, 2, 3]);
        let beyond = Err(Malformed("a length beyond its end"));
        assert_eq!(Reader::new(&out).bytes(), beyond);
        assert_eq!(Reader::new(&out).count(), beyond.map(|_| 0));
        assert!(Reader::new(&[0x80; 6]).count().is_err());
        let mut text = Vec::new();
        text.put_bytes(&[0xff]);
        assert!(Reader::new(&text).text().is_err());
    }
}
