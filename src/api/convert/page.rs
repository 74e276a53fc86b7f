//! How much of a list is answered at a time.

use super::fields::{Fields, Path};

/// What a page holds unless the caller says otherwise.
const DEFAULT_PAGE: i32 = 50;

/// The most a page holds, whatever the caller says.
const MAX_PAGE: i32 = 500;

/// Most bytes of resources in one answer, so that it passes the 4 MiB that gRPC clients accept unless told otherwise. One
/// resource always fits: its payloads are 256 KiB each.
pub const MAX_ANSWER_BYTES: usize = 3 * 1024 * 1024;

/// The size of a page: 0 means the default, too much is cut, negative is wrong.
pub fn size(fields: &mut Fields, page_size: i32) -> i64 {
    if page_size < 0 {
        fields.refuse(&Path::Request.field("page_size"), "must not be negative");
    }
    i64::from(if page_size == 0 { DEFAULT_PAGE } else { page_size.min(MAX_PAGE) })
}

/// How many of these messages, from the first, fit into an answer: all of them, or fewer, but at least one.
pub fn fitting<M: prost::Message>(messages: &[M]) -> usize {
    let mut bytes = 0;
    for (index, message) in messages.iter().enumerate() {
        bytes += message.encoded_len();
        if bytes > MAX_ANSWER_BYTES && index > 0 {
            return index;
        }
    }
    messages.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_sizes_follow_the_rules_of_lists() {
        let mut fields = Fields::new();
        assert_eq!([0, 1, 500, 501, i32::MAX].map(|n| size(&mut fields, n)), [50, 1, 500, 500, 500]);
        assert!(fields.finish(()).is_ok());
        let mut fields = Fields::new();
        size(&mut fields, -1);
        assert!(fields.finish(()).is_err());
    }

    #[test]
    fn an_answer_is_bounded_by_bytes_and_never_empty() {
        let blob = |bytes: usize| crate::pb::Blob { data: vec![0; bytes].into(), ..Default::default() };
        assert_eq!(fitting::<crate::pb::Blob>(&[]), 0);
        assert_eq!(fitting(&[blob(1), blob(2)]), 2);
        assert_eq!(fitting(&[blob(2 << 20), blob(2 << 20), blob(1)]), 1);
        assert_eq!(fitting(&[blob(4 << 20), blob(1)]), 1);
    }
}
