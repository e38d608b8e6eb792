//! Frames: length:u32 (big-endian, of what follows), request id:u64 (little-endian), and a record
//! that begins with its format byte.

use std::io;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use serde::Serialize;
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::codec::{self, RECORD_BYTES_MAX};

const LEN_BYTES: usize = 4;
const ID_BYTES: usize = 8;

/// The frame of `record`, ready to be written.
///
/// # Errors
/// `InvalidData` when the record is longer than [`RECORD_BYTES_MAX`].
pub(crate) fn encode<T: Serialize>(what: &'static str, id: u64, record: &T) -> io::Result<Bytes> {
    let mut head = [0; LEN_BYTES + ID_BYTES];
    head[LEN_BYTES..].copy_from_slice(&id.to_le_bytes());
    let mut frame = codec::encode_behind(&head, what, record)?;
    let len = u32::try_from(frame.len() - LEN_BYTES).map_err(io::Error::other)?;
    frame[..LEN_BYTES].copy_from_slice(&len.to_be_bytes());
    Ok(frame.into())
}

/// A frame that was received.
#[derive(Debug)]
pub(crate) struct Frame {
    /// Chosen by whoever asks, repeated in the answer.
    pub(crate) id: u64,
    /// The record with its format byte.
    pub(crate) body: Bytes,
}

/// Reads frames from one side of a connection.
pub(crate) struct FrameReader<R> {
    input: R,
    buffer: BytesMut,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    pub(crate) fn new(input: R) -> Self {
        Self { input, buffer: BytesMut::with_capacity(16 * 1024) }
    }

    /// The next frame, or `None` when the peer closed the connection between two frames.
    ///
    /// Safe to cancel: what was read so far stays in the buffer.
    ///
    /// # Errors
    /// `InvalidData` for a length out of bounds, `UnexpectedEof` within a frame, and what the
    /// connection says.
    pub(crate) async fn next(&mut self) -> io::Result<Option<Frame>> {
        loop {
            if let Some(frame) = self.take_frame()? {
                return Ok(Some(frame));
            }
            if self.input.read_buf(&mut self.buffer).await? == 0 {
                return if self.buffer.is_empty() {
                    Ok(None)
                } else {
                    Err(io::Error::new(io::ErrorKind::UnexpectedEof, "connection closed within a frame"))
                };
            }
        }
    }

    fn take_frame(&mut self) -> io::Result<Option<Frame>> {
        let Some(header) = self.buffer.first_chunk::<LEN_BYTES>() else { return Ok(None) };
        let len = u32::from_be_bytes(*header) as usize;
        if len < ID_BYTES || len as u64 > RECORD_BYTES_MAX + 64 {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a frame of {len} bytes")));
        }
        if self.buffer.len() < LEN_BYTES + len {
            // The length is within bounds, so this reserves a bounded amount.
            self.buffer.reserve(LEN_BYTES + len - self.buffer.len());
            return Ok(None);
        }
        self.buffer.advance(LEN_BYTES);
        let mut frame = self.buffer.split_to(len);
        let id = frame.get_u64_le();
        Ok(Some(Frame { id, body: frame.freeze() }))
    }
}

/// Puts frames that wait into one buffer, so that they cost one system call.
pub(crate) fn gather(first: Bytes, more: &mut tokio::sync::mpsc::Receiver<Bytes>, out: &mut BytesMut) {
    const GATHER_BYTES: usize = 256 * 1024;
    out.put(first);
    while out.len() < GATHER_BYTES {
        let Ok(frame) = more.try_recv() else { break };
        out.put(frame);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn frames_arrive_whole_whatever_the_reads() {
        let frames: Vec<Bytes> =
            (0..5usize).map(|id| encode("test", id as u64, &vec![7u8; id * 3000]).unwrap()).collect();
        let stream = frames.concat();
        for step in [1, 7, 4096, stream.len()] {
            let mut mock = tokio_chunks(&stream, step);
            let mut reader = FrameReader::new(&mut mock);
            for id in 0..5usize {
                let frame = reader.next().await.unwrap().unwrap();
                assert_eq!(frame.id, id as u64);
                assert_eq!(codec::decode::<Vec<u8>>("test", &frame.body).unwrap().len(), id * 3000);
            }
            assert!(reader.next().await.unwrap().is_none());
        }
    }

    #[tokio::test]
    async fn bad_frames_are_errors() {
        let cut = &encode("test", 1, &5u64).unwrap()[..10];
        let cases: [(&[u8], &str); 3] = [
            (&[0, 0, 0, 1, 0], "a frame of 1 bytes"),
            (&[0xff, 0xff, 0xff, 0xff, 0], "a frame of 4294967295 bytes"),
            (cut, "connection closed within a frame"),
        ];
        for (bytes, message) in cases {
            let error = FrameReader::new(bytes).next().await.unwrap_err();
            assert_eq!(error.to_string(), message);
        }
    }

    /// A reader that yields at most `step` bytes a time.
    fn tokio_chunks(bytes: &[u8], step: usize) -> impl AsyncRead + Unpin + '_ {
        struct Chunks<'a>(&'a [u8], usize);
        impl AsyncRead for Chunks<'_> {
            fn poll_read(
                mut self: std::pin::Pin<&mut Self>,
                _: &mut std::task::Context<'_>,
                buf: &mut tokio::io::ReadBuf<'_>,
            ) -> std::task::Poll<io::Result<()>> {
                let n = self.1.min(self.0.len()).min(buf.remaining());
                buf.put_slice(&self.0[..n]);
                self.0 = &self.0[n..];
                std::task::Poll::Ready(Ok(()))
            }
        }
        Chunks(bytes, step)
    }
}
