// Takes a shader out of the block that templates/vulkan/pack.py compressed it in.
#pragma once

#include <zstd.h>

#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <vector>

namespace amdserve {

// What stands in a shader's place.
struct packed_shader {
    uint32_t magic;
    uint32_t offset;     // in the unpacked block, in bytes
    int32_t  distance;   // from here to the block, in bytes
    uint32_t length;     // of the block as it is stored, in bytes
};

constexpr uint32_t packed_magic = 0x5650537a;

// Gives the SPIR-V of a shader, `size` bytes of it; nothing where it is not packed.
inline std::vector<uint32_t> unpacked_shader(const void * stored, size_t size) {
    packed_shader shader;
    if (size < sizeof(shader)) {
        return {};
    }
    std::memcpy(&shader, stored, sizeof(shader));
    if (shader.magic != packed_magic) {
        return {};
    }
    const auto * block = static_cast<const char *>(stored) + shader.distance;
    const auto whole = ZSTD_getFrameContentSize(block, shader.length);
    if (whole == ZSTD_CONTENTSIZE_UNKNOWN || whole == ZSTD_CONTENTSIZE_ERROR || whole < shader.offset + size) {
        throw std::runtime_error("a Vulkan shader in libggml-vulkan.so is damaged");
    }
    std::vector<char> all(whole);
    const auto got = ZSTD_decompress(all.data(), all.size(), block, shader.length);
    if (ZSTD_isError(got) || got != whole) {
        throw std::runtime_error("a Vulkan shader in libggml-vulkan.so does not unpack");
    }
    std::vector<uint32_t> code(size / sizeof(uint32_t));
    std::memcpy(code.data(), all.data() + shader.offset, code.size() * sizeof(uint32_t));
    return code;
}

}  // namespace amdserve
