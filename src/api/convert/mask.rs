//! Which fields an update changes.

use super::fields::{Fields, Path};

/// What a path of a mask means for a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// It can be changed.
    Changes,
    /// The server writes it; naming it is no fault and changes nothing.
    OutputOnly,
}

/// A mask that was read.
#[derive(Debug)]
pub struct Mask<'a>(Kind<'a>);

#[derive(Debug)]
enum Kind<'a> {
    /// No mask: what is set changes.
    WhatIsSet,
    /// `*`: everything changes.
    Everything,
    These(&'a [String]),
}

impl<'a> Mask<'a> {
    /// Reads a mask over the fields of `rules`.
    pub fn read(fields: &mut Fields, mask: Option<&'a prost_types::FieldMask>, rules: &[(&str, Rule)]) -> Self {
        let paths = match mask {
            Some(mask) if !mask.paths.is_empty() => &mask.paths,
            _ => return Self(Kind::WhatIsSet),
        };
        if *paths == ["*"] {
            return Self(Kind::Everything);
        }
        let list = Path::Request.field("update_mask");
        let list = list.field("paths");
        for (index, path) in paths.iter().enumerate() {
            if rules.iter().all(|(name, _)| name != path) {
                let names = rules.iter().filter(|(_, rule)| *rule == Rule::Changes).map(|(name, _)| *name);
                let names = names.collect::<Vec<_>>().join(", ");
                fields.refuse(&list.index(index), format!("cannot change; what can: {names}, or * alone"));
            }
        }
        Self(Kind::These(paths))
    }

    /// Whether a field changes; `is_set` says whether the message has a value for it.
    pub fn changes(&self, field: &str, is_set: bool) -> bool {
        match self.0 {
            Kind::WhatIsSet => is_set,
            Kind::Everything => true,
            Kind::These(paths) => paths.iter().any(|path| path == field),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mask_says_what_changes() {
        let rules = [("rate", Rule::Changes), ("paused", Rule::OutputOnly)];
        let mask = |paths: &[&str]| prost_types::FieldMask { paths: paths.iter().map(|p| (*p).to_owned()).collect() };
        let mut fields = Fields::new();
        for (paths, is_set, changes) in [
            (&[][..], true, true),
            (&[], false, false),
            (&["*"], false, true),
            (&["rate"], false, true),
            (&["paused"], true, false),
        ] {
            let mask = mask(paths);
            assert_eq!(Mask::read(&mut fields, Some(&mask), &rules).changes("rate", is_set), changes, "{paths:?}");
        }
        assert!(fields.finish(()).is_ok());
        for wrong in ["*", "rate.count", "type", ""] {
            let mut fields = Fields::new();
            Mask::read(&mut fields, Some(&mask(&["rate", wrong])), &rules);
            assert!(fields.finish(()).unwrap_err().to_string().starts_with("update_mask.paths[1]"), "{wrong}");
        }
    }
}
