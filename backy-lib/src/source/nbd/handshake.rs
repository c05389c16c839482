//! Agreeing with the server on what follows: sections "Newstyle negotiation", "Option types" and "Metadata querying" of
//! the protocol.
//!
//! Only fixed newstyle is spoken. A server that knows no structured replies, or not the context `base:allocation`, is
//! read nevertheless: then nobody knows where the holes are. A bitmap that was named has to be there.

use std::io::Write;

use super::incoming::{Incoming, split};
use super::{Fault, MOST_OPTION_BYTES, MOST_OPTION_REPLIES, said, wrong};
use crate::base::error::describe_io;

const MAGIC: [u8; 8] = *b"NBDMAGIC";
const OPTION_MAGIC: [u8; 8] = *b"IHAVEOPT";
/// "Oldstyle negotiation".
const OLD_MAGIC: [u8; 8] = [0, 0, 0x42, 0x02, 0x81, 0x86, 0x12, 0x53];
const REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;

/// "Handshake flags".
const FIXED_NEWSTYLE: u16 = 1;
const NO_ZEROES: u16 = 2;

/// "Transmission flags".
const HAS_FLAGS: u16 = 1;

/// "Option types": those that are sent.
const ABORT: u32 = 2;
const GO: u32 = 7;
const STRUCTURED_REPLY: u32 = 8;
const SET_META_CONTEXT: u32 = 10;

/// "Option reply types": those that are understood.
const ACK: u32 = 1;
const INFO: u32 = 3;
const META_CONTEXT: u32 = 4;
const ERROR_BIT: u32 = 1 << 31;
const ERR_UNSUP: u32 = ERROR_BIT + 1;
const ERR_POLICY: u32 = ERROR_BIT + 2;
const ERR_INVALID: u32 = ERROR_BIT + 3;
const ERR_PLATFORM: u32 = ERROR_BIT + 4;
const ERR_TLS_REQD: u32 = ERROR_BIT + 5;
const ERR_UNKNOWN: u32 = ERROR_BIT + 6;
const ERR_SHUTDOWN: u32 = ERROR_BIT + 7;
const ERR_BLOCK_SIZE_REQD: u32 = ERROR_BIT + 8;

/// "Information types" of `NBD_OPT_GO`.
const INFO_EXPORT: u16 = 0;
const INFO_BLOCK_SIZE: u16 = 3;

/// "Block size constraints": the largest that the smallest may be, and what holds for a server that does not say.
const MOST_MIN_BYTES: u32 = 64 << 10;
const USUAL_MAX_BYTES: u32 = 32 << 20;

/// "Metadata querying".
const ALLOCATION: &str = "base:allocation";
pub(super) const BITMAP_PREFIX: &str = "qemu:dirty-bitmap:";

/// What both sides have agreed on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Agreed {
    /// Positive, and a multiple of `min_bytes`.
    pub(super) size_bytes: u64,
    /// Offsets and lengths of requests are multiples of it. A power of two.
    pub(super) min_bytes: u32,
    /// Read requests are no longer than this. At least `min_bytes`.
    pub(super) max_bytes: u32,
    pub(super) structured: bool,
    /// The number of the context `base:allocation`.
    pub(super) allocation: Option<u32>,
    /// The number of the context of the bitmap.
    pub(super) bitmap: Option<u32>,
}

/// Agrees with the server on an export, and on the QEMU bitmap of this name.
pub(super) fn agree(
    incoming: &mut Incoming,
    outgoing: &mut dyn Write,
    export: &str,
    bitmap: Option<&str>,
) -> Result<Agreed, Fault> {
    let mut haggling = Haggling { incoming, outgoing, export };
    haggling.greeting()?;
    let agreed = haggling.options(bitmap);
    if agreed.is_err() {
        // Politeness, so that the server logs no broken connection. It changes nothing if it fails.
        let _ = haggling.send(ABORT, &[]);
    }
    agreed
}

struct Haggling<'a> {
    incoming: &'a mut Incoming,
    outgoing: &'a mut dyn Write,
    export: &'a str,
}

/// How the replies to an option ended.
enum Answer {
    Ack,
    /// With the server's words, for the end of a sentence.
    Refused {
        kind: u32,
        said: String,
    },
}

/// Gets the type and the payload of a reply.
type Each<'a> = dyn FnMut(u32, &[u8]) -> Result<(), Fault> + 'a;

impl Haggling<'_> {
    fn greeting(&mut self) -> Result<(), Fault> {
        let place = "the greeting";
        let found: [u8; 8] = self.incoming.array(place)?;
        if found != MAGIC {
            let found = format!("'{}'", found.escape_ascii());
            return Err(wrong(place, found, "'NBDMAGIC'"));
        }
        let found: [u8; 8] = self.incoming.array(place)?;
        if found == OLD_MAGIC {
            let message = "the server speaks only the oldstyle protocol; backy needs fixed newstyle: update it";
            return Err(message.to_owned());
        }
        if found != OPTION_MAGIC {
            let found = format!("'{}'", found.escape_ascii());
            return Err(wrong(place, found, "'IHAVEOPT'"));
        }
        let flags = self.incoming.u16(place)?;
        if flags & FIXED_NEWSTYLE == 0 {
            let found = format!("the handshake flags {flags:#06x}");
            return Err(wrong(place, found, "fixed newstyle (bit 0)"));
        }
        let flags = u32::from(flags & (FIXED_NEWSTYLE | NO_ZEROES));
        self.write(&flags.to_be_bytes())
    }

    fn options(&mut self, bitmap: Option<&str>) -> Result<Agreed, Fault> {
        let structured = self.structured_replies()?;
        let (allocation, bitmap) = match (structured, bitmap) {
            (true, bitmap) => self.contexts(bitmap)?,
            (false, None) => (None, None),
            (false, Some(_)) => {
                let message = "the server knows no structured replies, and therefore no bitmap; \
                               serve the export with qemu-nbd or QEMU";
                return Err(message.to_owned());
            }
        };
        let (size_bytes, min_bytes, max_bytes) = self.go()?;
        Ok(Agreed { size_bytes, min_bytes, max_bytes, structured, allocation, bitmap })
    }

    /// `NBD_OPT_STRUCTURED_REPLY`; false if the server does without.
    fn structured_replies(&mut self) -> Result<bool, Fault> {
        let what = "the reply to the option for structured replies";
        match self.ask(STRUCTURED_REPLY, &[], what, &mut |kind, _| {
            Err(wrong(what, format!("the type {kind}"), "an acknowledgement or an error"))
        })? {
            Answer::Ack => Ok(true),
            Answer::Refused { kind, said } if is_essential(kind) => {
                Err(self.refusal("structured replies", kind, &said))
            }
            Answer::Refused { .. } => Ok(false),
        }
    }

    /// `NBD_OPT_SET_META_CONTEXT`: the numbers of `base:allocation` and of the bitmap.
    fn contexts(&mut self, bitmap: Option<&str>) -> Result<(Option<u32>, Option<u32>), Fault> {
        let what = "the reply to the option for metadata contexts";
        let bitmap = bitmap.map(|name| format!("{BITMAP_PREFIX}{name}"));
        let asked: Vec<&str> =
            [Some(ALLOCATION), bitmap.as_deref()].into_iter().flatten().collect();
        let mut data = named(self.export);
        data.extend((asked.len() as u32).to_be_bytes());
        asked.iter().for_each(|name| data.extend(named(name)));
        let (mut allocation, mut dirty) = (None, None);
        let answer = self.ask(SET_META_CONTEXT, &data, what, &mut |kind, payload| {
            let mut name = payload;
            let number = split(&mut name).map(u32::from_be_bytes);
            let Some(number) = number.filter(|_| kind == META_CONTEXT) else {
                let found = format!("the type {kind} with {} bytes", payload.len());
                return Err(wrong(
                    what,
                    found,
                    format!("the type {META_CONTEXT}, a number and a name"),
                ));
            };
            let is_bitmap = bitmap.as_deref().is_some_and(|bitmap| bitmap.as_bytes() == name);
            let place = match is_bitmap {
                true => &mut dirty,
                false if name == ALLOCATION.as_bytes() => &mut allocation,
                false => {
                    let found = format!("a context{}", said(name));
                    return Err(wrong(what, found, asked.join(" or ")));
                }
            };
            match place.replace(number) {
                None => Ok(()),
                Some(_) => Err(wrong(what, format!("a context twice{}", said(name)), "it once")),
            }
        })?;
        if let Answer::Refused { kind, said } = answer {
            if is_essential(kind) || kind == ERR_UNKNOWN {
                return Err(self.refusal("its metadata", kind, &said));
            }
            (allocation, dirty) = (None, None);
        }
        if let (Some(one), Some(other)) = (allocation, dirty)
            && one == other
        {
            return Err(wrong(what, format!("the number {one} for two contexts"), "two numbers"));
        }
        if let (Some(context), None) = (bitmap, dirty) {
            return Err(format!(
                "the server has no context '{context}' for this export; is the bitmap there, and does the server \
                 export it (qemu-nbd --bitmap)?"
            ));
        }
        Ok((allocation, dirty))
    }

    /// `NBD_OPT_GO`: the size, and the shortest and longest request.
    fn go(&mut self) -> Result<(u64, u32, u32), Fault> {
        let what = "the reply to the option that opens the export";
        let mut data = named(self.export);
        data.extend(1_u16.to_be_bytes());
        data.extend(INFO_BLOCK_SIZE.to_be_bytes());
        let (mut size, mut block_size) = (None, None);
        let answer = self.ask(GO, &data, what, &mut |kind, payload| {
            let mut rest = payload;
            let info = split(&mut rest).map(u16::from_be_bytes);
            let Some(info) = info.filter(|_| kind == INFO) else {
                let found = format!("the type {kind} with {} bytes", payload.len());
                return Err(wrong(what, found, format!("the type {INFO} and at least 2 bytes")));
            };
            let twice = match info {
                INFO_EXPORT => size.replace(export_info(what, rest)?).is_some(),
                INFO_BLOCK_SIZE => block_size.replace(block_size_info(what, rest)?).is_some(),
                // Others have to be ignored.
                _ => false,
            };
            match twice {
                false => Ok(()),
                true => Err(wrong(what, format!("the information {info} twice"), "it once")),
            }
        })?;
        if let Answer::Refused { kind, said } = answer {
            return Err(self.refusal("the export", kind, &said));
        }
        let Some(size_bytes) = size else {
            return Err(wrong(what, "no size", "the information NBD_INFO_EXPORT"));
        };
        let (min_bytes, max_bytes) = block_size.unwrap_or((1, USUAL_MAX_BYTES));
        if size_bytes == 0 {
            return Err(
                "the export is empty: found 0 bytes; check that its medium is attached".to_owned()
            );
        }
        let beyond = size_bytes % u64::from(min_bytes);
        if beyond != 0 {
            return Err(format!(
                "the export has {size_bytes} bytes and is read in units of {min_bytes}: nobody can read the last \
                 {beyond}; resize the image, or serve it in another way"
            ));
        }
        Ok((size_bytes, min_bytes, max_bytes))
    }

    /// Sends an option and reads the replies to it. `each` gets those that neither acknowledge nor refuse.
    fn ask(
        &mut self,
        option: u32,
        data: &[u8],
        what: &str,
        each: &mut Each<'_>,
    ) -> Result<Answer, Fault> {
        self.send(option, data)?;
        self.incoming.begin();
        for _ in 0..MOST_OPTION_REPLIES {
            let magic = self.incoming.u64(what)?;
            if magic != REPLY_MAGIC {
                return Err(wrong(what, format!("{magic:#018x}"), format!("{REPLY_MAGIC:#018x}")));
            }
            let found = self.incoming.u32(what)?;
            if found != option {
                let found = format!("one to the option {found}");
                return Err(wrong(what, found, format!("one to the option {option}")));
            }
            let kind = self.incoming.u32(what)?;
            let length = self.incoming.u32(what)?;
            if length > MOST_OPTION_BYTES {
                return Err(wrong(
                    what,
                    format!("{length} bytes"),
                    format!("at most {MOST_OPTION_BYTES}"),
                ));
            }
            let payload = self.incoming.bytes(length, what)?;
            if kind & ERROR_BIT != 0 {
                return Ok(Answer::Refused { kind, said: said(&payload) });
            }
            match (kind, length) {
                (ACK, 0) => return Ok(Answer::Ack),
                (ACK, _) => {
                    return Err(wrong(
                        what,
                        format!("an acknowledgement of {length} bytes"),
                        "none",
                    ));
                }
                _ => each(kind, &payload)?,
            }
        }
        Err(wrong(what, "more", format!("at most {MOST_OPTION_REPLIES} replies")))
    }

    fn send(&mut self, option: u32, data: &[u8]) -> Result<(), Fault> {
        let mut message = OPTION_MAGIC.to_vec();
        message.extend(option.to_be_bytes());
        message.extend((data.len() as u32).to_be_bytes());
        message.extend(data);
        self.write(&message)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        let written = self.outgoing.write_all(bytes).and_then(|()| self.outgoing.flush());
        written
            .map_err(|error| format!("cannot send: {}; see the server's log", describe_io(&error)))
    }

    /// An error of the server as a sentence. `asked` was asked for.
    fn refusal(&self, asked: &str, kind: u32, said: &str) -> Fault {
        let export = match self.export {
            "" => "the default export".to_owned(),
            name => format!("the export '{name}'"),
        };
        match kind {
            ERR_TLS_REQD => format!(
                "the server requires TLS{said}, which backy does not speak; use a Unix socket, or forward the port \
                 with ssh -L or stunnel"
            ),
            ERR_UNKNOWN => format!(
                "the server has no such export{said}: asked for {export}; `nbdinfo --list` or `qemu-nbd --list` shows \
                 its exports"
            ),
            ERR_SHUTDOWN => format!("the server is shutting down{said}; start it again"),
            ERR_UNSUP if asked == "the export" => {
                format!("the server does not know NBD_OPT_GO{said}, which backy needs; update it")
            }
            kind => format!(
                "the server refuses {asked} of {export}: {}{said}; see its log",
                name_of(kind)
            ),
        }
    }
}

/// Whether nothing else will work either.
fn is_essential(kind: u32) -> bool {
    [ERR_TLS_REQD, ERR_SHUTDOWN].contains(&kind)
}

fn name_of(kind: u32) -> String {
    let name = match kind {
        ERR_UNSUP => "NBD_REP_ERR_UNSUP",
        ERR_POLICY => "NBD_REP_ERR_POLICY",
        ERR_INVALID => "NBD_REP_ERR_INVALID",
        ERR_PLATFORM => "NBD_REP_ERR_PLATFORM",
        ERR_BLOCK_SIZE_REQD => "NBD_REP_ERR_BLOCK_SIZE_REQD",
        kind => return format!("error {kind:#010x}"),
    };
    name.to_owned()
}

/// `NBD_INFO_EXPORT`: the size.
fn export_info(what: &str, mut rest: &[u8]) -> Result<u64, Fault> {
    let (size, flags) = (split(&mut rest), split(&mut rest));
    let (Some(size), Some(flags), true) = (size, flags, rest.is_empty()) else {
        return Err(wrong(what, "NBD_INFO_EXPORT of another length", "12 bytes"));
    };
    let (size_bytes, flags) = (u64::from_be_bytes(size), u16::from_be_bytes(flags));
    if flags & HAS_FLAGS == 0 {
        let found = format!("the transmission flags {flags:#06x}");
        return Err(wrong(what, found, "NBD_FLAG_HAS_FLAGS (bit 0)"));
    }
    if i64::try_from(size_bytes).is_err() {
        let found = format!("an export of {size_bytes} bytes");
        return Err(wrong(what, found, format!("at most {}", i64::MAX)));
    }
    Ok(size_bytes)
}

/// `NBD_INFO_BLOCK_SIZE`: the smallest and the largest.
fn block_size_info(what: &str, mut rest: &[u8]) -> Result<(u32, u32), Fault> {
    let [min, preferred, max] = [(); 3].map(|()| split(&mut rest).map(u32::from_be_bytes));
    let (Some(min), Some(_), Some(max), true) = (min, preferred, max, rest.is_empty()) else {
        return Err(wrong(what, "NBD_INFO_BLOCK_SIZE of another length", "14 bytes"));
    };
    if !min.is_power_of_two() || min > MOST_MIN_BYTES {
        let expected = format!("a power of two up to {MOST_MIN_BYTES}");
        return Err(wrong(what, format!("the minimum block size {min}"), expected));
    }
    if max < min {
        let expected = format!("at least the minimum, {min}");
        return Err(wrong(what, format!("the maximum block size {max}"), expected));
    }
    Ok((min, max))
}

/// A string after its length. Names were checked to be short.
fn named(text: &str) -> Vec<u8> {
    let mut bytes = (text.len() as u32).to_be_bytes().to_vec();
    bytes.extend(text.as_bytes());
    bytes
}
