/// Sound at another sampling rate: band-limited interpolation with the pass band of soxr's "HQ", which librosa uses.
#pragma once

#include <chiasm/io/audio.hpp>

#include <cstddef>

namespace chiasm::inline CHIASM_ABI {

/// `audio` at `rate` frames per second: linear phase, flat up to 0.91 of the lower of both Nyquist frequencies, nothing left above it
/// (-120 dB). No delay; round(frames * rate / audio.rate()) frames; before and after the sound is silence.
/// Throws ArgumentError: a rate below 1, a rate below 1/64 of the sound's, or a result of more than 2^31 samples.
Audio resample(const Audio& audio, int rate);

/// The first `frames` frames of it at most, without computing the rest.
Audio resample(const Audio& audio, int rate, std::size_t frames);

}  // namespace chiasm

#ifndef CHIASM_COMPILED
#include <chiasm/impl/resample.ipp>
#endif
