//! The scripts, and how they are called: by their digest, and whole when the server forgot them.

use std::sync::LazyLock;

use redis::Cmd;

/// A script that runs on the server, atomically.
pub(super) struct Script {
    text: &'static str,
    digest: String,
}

/// `flags` of the shebang say what the script may do when the server refuses writes. Without a
/// shebang the server decides at each write.
macro_rules! script {
    ($name:ident, $flags:literal, $file:literal) => {
        pub(super) static $name: LazyLock<Script> = LazyLock::new(|| {
            Script::new(concat!($flags, include_str!("record.lua"), include_str!($file)))
        });
    };
}

// New claims are what a full server must refuse; whatever ends one must still get through.
script!(CLAIM, "", "claim.lua");
script!(COMPLETE, "#!lua flags=allow-oom\n", "complete.lua");
script!(RENEW, "#!lua flags=allow-oom\n", "renew.lua");
script!(RELEASE, "#!lua flags=allow-oom\n", "release.lua");
script!(PUT, "#!lua flags=allow-oom\n", "put.lua");
script!(AWAIT, "#!lua flags=allow-oom\n", "await.lua");
script!(SWEEP, "#!lua flags=allow-oom\n", "sweep.lua");
script!(READ, "#!lua flags=no-writes\n", "read.lua");
script!(COUNT, "#!lua flags=no-writes\n", "count.lua");

impl Script {
    fn new(text: &'static str) -> Self {
        Self { text, digest: sha1_smol::Sha1::from(text).digest().to_string() }
    }

    /// The call by digest, or with the whole script.
    pub(super) fn command(
        &self,
        is_whole: bool,
        keys: &[impl AsRef<str>],
        arguments: &[impl AsRef<[u8]>],
    ) -> Cmd {
        let words = 3 + keys.len() + arguments.len();
        let texts: usize = keys.iter().map(|key| key.as_ref().len()).sum();
        let bytes: usize = arguments.iter().map(|argument| argument.as_ref().len()).sum();
        let script = if is_whole { self.text.len() } else { self.digest.len() };
        let mut command = Cmd::with_capacity(words, script + texts + bytes + 16);
        if is_whole {
            command.arg("EVAL").arg(self.text);
        } else {
            command.arg("EVALSHA").arg(&self.digest);
        }
        command.arg(keys.len());
        for key in keys {
            command.arg(key.as_ref());
        }
        for argument in arguments {
            command.arg(argument.as_ref());
        }
        command
    }
}
