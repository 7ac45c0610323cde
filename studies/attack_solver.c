/* The proof of work of ALTCHA with PBKDF2/SHA-256, as somebody would solve it who wants many solutions: as many tries at once as a
   vector of the processor has lanes. Used by ci/attack alone, which compiles it for the machine that it runs on.

   PBKDF2 is RFC 8018, HMAC is RFC 2104, SHA-256 is FIPS 180-4. */
#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__)
#define LANES 16
#elif defined(__AVX2__)
#define LANES 8
#else
#define LANES 4
#endif

typedef uint32_t vector __attribute__((vector_size(4 * LANES)));

static const uint32_t K[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};
static const uint32_t IV[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};

#define ROTATE(x, n) (((x) >> (n)) | ((x) << (32 - (n))))

static inline __attribute__((always_inline)) void compress(vector state[8], const vector block[16]) {
  vector w[16];
  for (int i = 0; i < 16; i++) w[i] = block[i];
  vector a = state[0], b = state[1], c = state[2], d = state[3], e = state[4], f = state[5], g = state[6], h = state[7];
#pragma GCC unroll 64
  for (int i = 0; i < 64; i++) {
    if (i >= 16) {
      vector x = w[(i - 15) & 15], y = w[(i - 2) & 15];
      w[i & 15] += (ROTATE(x, 7) ^ ROTATE(x, 18) ^ (x >> 3)) + w[(i - 7) & 15] + (ROTATE(y, 17) ^ ROTATE(y, 19) ^ (y >> 10));
    }
    vector one = h + (ROTATE(e, 6) ^ ROTATE(e, 11) ^ ROTATE(e, 25)) + (g ^ (e & (f ^ g))) + K[i] + w[i & 15];
    vector two = (ROTATE(a, 2) ^ ROTATE(a, 13) ^ ROTATE(a, 22)) + ((a & b) | (c & (a | b)));
    h = g, g = f, f = e, e = d + one, d = c, c = b, b = a, a = one + two;
  }
  state[0] += a, state[1] += b, state[2] += c, state[3] += d, state[4] += e, state[5] += f, state[6] += g, state[7] += h;
}

static void start(vector state[8]) {
  for (int i = 0; i < 8; i++)
    for (int lane = 0; lane < LANES; lane++) state[i][lane] = IV[i];
}

/* Bytes as a block, big-endian; the rest of the block is zeros. */
static void words(uint32_t block[16], const uint8_t *bytes, int length) {
  uint8_t padded[64] = {0};
  memcpy(padded, bytes, length);
  for (int i = 0; i < 16; i++)
    block[i] = (uint32_t)padded[4 * i] << 24 | padded[4 * i + 1] << 16 | padded[4 * i + 2] << 8 | padded[4 * i + 3];
}

int lanes(void) { return LANES; }

/* Try counters from `first` on, `most` of them at most, LANES at a time.

   nonce     16 bytes; a password is the nonce and the counter
   salt      16 bytes
   cost      rounds of PBKDF2
   prefix    16 bytes, the first half of the key that is sought
   key       gets the 32 bytes of the key
   returns   the counter, or -1 */
int64_t solve(const uint8_t *nonce, const uint8_t *salt, uint32_t cost, uint32_t first, uint32_t most, const uint8_t *prefix,
              uint8_t *key) {
  uint32_t sought[16], password[16], salted[16];
  uint8_t bytes[64] = {0};
  words(sought, prefix, 16);
  memcpy(bytes, nonce, 16);
  words(password, bytes, 20);
  /* salt, the number of the key's only block, and the padding of a message that follows the block of HMAC's key */
  memset(bytes, 0, 64);
  memcpy(bytes, salt, 16);
  bytes[19] = 1, bytes[20] = 0x80;
  words(salted, bytes, 64);
  salted[15] = (64 + 20) * 8;
  for (uint32_t tried = 0; tried < most; tried += LANES) {
    vector block[16] = {{0}}, inner[8], outer[8], state[8], u[16] = {{0}}, sum[8];
    for (int i = 0; i < 16; i++)
      for (int lane = 0; lane < LANES; lane++) block[i][lane] = (i == 4 ? first + tried + lane : password[i]) ^ 0x36363636u;
    start(inner), compress(inner, block);
    for (int i = 0; i < 16; i++) block[i] ^= 0x36363636u ^ 0x5c5c5c5cu;
    start(outer), compress(outer, block);
    for (int i = 0; i < 16; i++)
      for (int lane = 0; lane < LANES; lane++) u[i][lane] = salted[i];
    for (uint32_t round = 0; round < cost; round++) {
      memcpy(state, inner, sizeof state), compress(state, u);
      /* The digest of either hash is a message of 32 bytes after a block of key. */
      for (int i = 0; i < 8; i++) u[i] = state[i];
      for (int i = 8; i < 16; i++) u[i] ^= u[i];
      u[8] += 0x80000000u, u[15] += (64 + 32) * 8;
      memcpy(state, outer, sizeof state), compress(state, u);
      for (int i = 0; i < 8; i++) u[i] = state[i], sum[i] = round ? sum[i] ^ state[i] : state[i];
    }
    for (int lane = 0; lane < LANES; lane++) {
      if (sum[0][lane] != sought[0] || sum[1][lane] != sought[1] || sum[2][lane] != sought[2] || sum[3][lane] != sought[3]) continue;
      for (int i = 0; i < 32; i++) key[i] = sum[i / 4][lane] >> (24 - i % 4 * 8);
      return (int64_t)first + tried + lane;
    }
  }
  return -1;
}
