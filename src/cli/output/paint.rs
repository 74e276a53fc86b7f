//! Colours: whether, and which. A pipe, `NO_COLOR` and `--color never` all mean none.

use clap::ValueEnum;

/// What `--color` says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum ColorChoice {
    /// At a terminal, unless `NO_COLOR` is set.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// The few colours we use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Color {
    /// As the terminal is.
    #[default]
    Plain,
    /// Good.
    Green,
    /// Bad.
    Red,
    /// Needs an eye.
    Yellow,
    /// Moving.
    Cyan,
    /// Of little interest.
    Dim,
    /// A heading.
    Bold,
}

/// Text with its colour.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Styled {
    /// The text.
    pub text: String,
    /// Its colour.
    pub color: Color,
}

impl Styled {
    /// Text in a colour.
    pub fn new(text: impl Into<String>, color: Color) -> Self {
        Self { text: text.into(), color }
    }
}

impl<T: Into<String>> From<T> for Styled {
    fn from(text: T) -> Self {
        Self::new(text, Color::Plain)
    }
}

/// Adds colours, or does not.
#[derive(Clone, Copy, Debug)]
pub struct Painter {
    on: bool,
}

impl Painter {
    /// For a stream that is a terminal or not.
    pub fn for_stream(choice: ColorChoice, is_terminal: bool) -> Self {
        let forbidden = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let on = match choice {
            ColorChoice::Always => true,
            ColorChoice::Never => false,
            ColorChoice::Auto => is_terminal && !forbidden,
        };
        Self { on }
    }

    /// No colours.
    #[cfg(test)]
    pub fn plain() -> Self {
        Self { on: false }
    }

    /// Whether colours are added.
    pub fn is_on(self) -> bool {
        self.on
    }

    /// The text in its colour.
    pub fn paint(self, styled: &Styled) -> String {
        let code = match styled.color {
            Color::Plain => return styled.text.clone(),
            Color::Red => "31",
            Color::Green => "32",
            Color::Yellow => "33",
            Color::Cyan => "36",
            Color::Dim => "2",
            Color::Bold => "1",
        };
        if self.on { format!("\u{1b}[{code}m{}\u{1b}[0m", styled.text) } else { styled.text.clone() }
    }

    /// Red text.
    pub fn red(self, text: &str) -> String {
        self.paint(&Styled::new(text, Color::Red))
    }

    /// Bold text.
    pub fn bold(self, text: &str) -> String {
        self.paint(&Styled::new(text, Color::Bold))
    }

    /// Dim text.
    pub fn dim(self, text: &str) -> String {
        self.paint(&Styled::new(text, Color::Dim))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choice_rules_over_the_terminal() {
        assert!(Painter::for_stream(ColorChoice::Always, false).is_on());
        assert!(!Painter::for_stream(ColorChoice::Never, true).is_on());
        assert!(!Painter::for_stream(ColorChoice::Auto, false).is_on());
    }

    #[test]
    fn no_escape_without_colours() {
        assert_eq!(Painter::plain().red("x"), "x");
        assert_eq!(Painter { on: true }.red("x"), "\u{1b}[31mx\u{1b}[0m");
    }
}
