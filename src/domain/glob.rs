//! Globs on types and queues, as retry rules and rules of retention have them. Nothing is compiled and nothing allocated:
//! most are asked once.

/// Whether a text has the form of a glob: `*` stands for any characters or none, `?` for one.
pub fn glob_matches(glob: &str, text: &str) -> bool {
    let (mut pattern, mut rest) = (glob.chars(), text.chars());
    // Where to go on when what follows the last `*` does not match: the `*` takes one character more.
    let mut retry: Option<(std::str::Chars<'_>, std::str::Chars<'_>)> = None;
    loop {
        let (mut next_pattern, mut next_rest) = (pattern.clone(), rest.clone());
        match (next_pattern.next(), next_rest.next()) {
            (Some('*'), _) => {
                retry = Some((next_pattern.clone(), rest.clone()));
                pattern = next_pattern;
                continue;
            }
            (Some(wanted), Some(found)) if wanted == '?' || wanted == found => {
                (pattern, rest) = (next_pattern, next_rest);
                continue;
            }
            (None, None) => return true,
            _ => {}
        }
        let Some((after_star, mut taken)) = retry.take() else { return false };
        if taken.next().is_none() {
            return false;
        }
        (pattern, rest) = (after_star.clone(), taken.clone());
        retry = Some((after_star, taken));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs_match_whole_texts() {
        let cases = [
            ("", "", true),
            ("", "a", false),
            ("*", "", true),
            ("*", "abc", true),
            ("a*", "a", true),
            ("a*", "ba", false),
            ("*a", "baa", true),
            ("a*c", "abc", true),
            ("a*c", "abcd", false),
            ("*ab*ab*", "aabab", true),
            ("*ab*ab*", "aba", false),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("?", "é", true),
            ("*?", "", false),
            ("*?*", "x", true),
            ("Http5??", "Http503", true),
            ("Http5??", "Http5034", false),
            ("A*", "abc", false),
            ("a**b", "ab", true),
        ];
        for (glob, text, expected) in cases {
            assert_eq!(glob_matches(glob, text), expected, "{glob} on {text}");
        }
        // No glob takes more than its length times that of the text.
        let (glob, text) = ("*a".repeat(64) + "b", "a".repeat(256));
        assert!(!glob_matches(&glob, &text));
    }
}
