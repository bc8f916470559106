// Random words by Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3").
#pragma once

#include <cstdint>

namespace {

// The words of counters (block, draw's low word, stream, draw's high word) under a key of 64 bits, block by block: four
// runs of `blocks` words each.
inline void philox(uint64_t key, uint64_t draw, uint32_t stream, int64_t blocks, int64_t* out) {
    for (int64_t block = 0; block < blocks; ++block) {
        uint32_t c[4] = {uint32_t(block), uint32_t(draw), stream, uint32_t(draw >> 32)};
        uint32_t k[2] = {uint32_t(key), uint32_t(key >> 32)};
        for (int round = 0; round < 10; ++round) {
            const uint64_t a = uint64_t(c[0]) * 0xD2511F53u, b = uint64_t(c[2]) * 0xCD9E8D57u;
            c[0] = uint32_t(b >> 32) ^ c[1] ^ k[0], c[2] = uint32_t(a >> 32) ^ c[3] ^ k[1];
            c[1] = uint32_t(b), c[3] = uint32_t(a);
            k[0] += 0x9E3779B9u, k[1] += 0xBB67AE85u;
        }
        for (int i = 0; i < 4; ++i) out[i * blocks + block] = c[i];
    }
}

}  // namespace
