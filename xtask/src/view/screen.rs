//! The terminal while the view has it, and how it gets it back whatever happens.

use std::io::{BufRead, BufReader, Stdout, Write};
use std::os::unix::process::CommandExt;
use std::panic;
use std::process::{Child, Command, Stdio};
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, bail};
use crossterm::cursor::Show;
use crossterm::terminal::{
    Clear, ClearType, EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode,
};
use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;

use super::draw::Picture;
use super::said::Said;
use crate::Result;

/// The terminal is in our hands.
static TAKEN: AtomicBool = AtomicBool::new(false);

/// The terminal in raw mode on its other screen; dropping it gives the terminal back and prints what
/// was said meanwhile.
pub(super) struct Screen {
    terminal: Terminal<CrosstermBackend<Stdout>>,
    said: Said,
    guard: Option<TerminalGuard>,
}

impl Screen {
    pub(super) fn take(said: Said) -> Result<Self> {
        give_back_on_panic();
        let guard = TerminalGuard::start()?;
        let terminal = Terminal::new(CrosstermBackend::new(std::io::stdout()))?;
        said.hold_back();
        // From here on a drop undoes everything.
        let screen = Self {
            terminal,
            said,
            guard: Some(guard),
        };
        take_over()?;
        Ok(screen)
    }

    /// After somebody else had the terminal.
    pub(super) fn take_again(&mut self) -> Result<()> {
        if TAKEN.load(Ordering::SeqCst) {
            // Else the library believes that it still is as it wants it.
            disable_raw_mode()?;
            take_over()?;
            // Forgets what was drawn. `clear` would ask for the cursor, and the keys' stream would eat
            // the answer.
            let size = self.terminal.size()?;
            self.terminal.resize(size.into())?;
        }
        Ok(())
    }

    pub(super) fn draw(&mut self, picture: Picture<'_>) -> Result<()> {
        if !TAKEN.load(Ordering::SeqCst) {
            bail!("another part of this program has panicked");
        }
        let draw = |frame: &mut ratatui::Frame<'_>| frame.render_widget(picture, frame.area());
        self.terminal.draw(draw).context("drawing")?;
        Ok(())
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        give_back();
        if let Some(guard) = self.guard.take() {
            guard.dismiss();
        }
        self.said.catch_up();
    }
}

fn take_over() -> Result<()> {
    TAKEN.store(true, Ordering::SeqCst);
    enable_raw_mode().context("switching the terminal to single keys")?;
    // A terminal without another screen, as in some multiplexers, shows the usual one.
    let clear = Clear(ClearType::All);
    crossterm::execute!(std::io::stdout(), EnterAlternateScreen, clear)?;
    Ok(())
}

/// Does nothing if it was done already.
fn give_back() {
    if TAKEN.swap(false, Ordering::SeqCst) {
        // A terminal that is gone needs nothing back.
        let _ = disable_raw_mode();
        let _ = crossterm::execute!(std::io::stdout(), LeaveAlternateScreen, Show);
    }
}

/// The message of a panic belongs on the usual screen.
fn give_back_on_panic() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            give_back();
            before(panic);
        }));
    });
}

/// Gives the terminal back when we die without a chance to do it ourselves, by `kill -9`.
///
/// A small shell waits at the end of a pipe whose other end only we hold. If the pipe ends without a
/// word, we are gone. The user's own shell may be faster in setting the modes it wants: it is only
/// put right where it is still raw (`-opost`, which no prompt uses).
struct TerminalGuard {
    shell: Child,
}

impl TerminalGuard {
    fn start() -> Result<Self> {
        const SCRIPT: &str = r#"trap '' INT HUP TERM QUIT TSTP TTIN TTOU
            exec 3<>/dev/tty || exit
            before=$(stty -g <&3) || exit
            echo watching
            read -r word && exit
            case $(stty -a <&3) in *-opost*) stty "$before" <&3 ;; esac
            printf '\033[?1049l\033[?25h%s\n' "$1" >&3"#;
        let last_words = "./dev up was killed, and with it all that it ran; the data is kept";
        let mut shell = Command::new("sh")
            .args(["-c", SCRIPT, "terminal-guard", last_words])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .process_group(0) // what the terminal sends is not for it
            .spawn()
            .context("starting sh")?;
        let mut line = String::new();
        if let Some(output) = shell.stdout.take() {
            BufReader::new(output).read_line(&mut line)?;
        }
        // Dropped at once where it has not got hold of the terminal.
        let guard = Self { shell };
        match line.trim() {
            "watching" => Ok(guard),
            _ => {
                guard.dismiss();
                bail!("the terminal's settings cannot be read (stty)")
            }
        }
    }

    fn dismiss(mut self) {
        if let Some(mut pipe) = self.shell.stdin.take() {
            let _ = pipe.write_all(b"dismissed\n");
        }
        let _ = self.shell.wait();
    }
}
