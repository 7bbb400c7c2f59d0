// The least that any receiver of readouts must do: take bytes from a socket, find where each message ends, put the samples of each
// readout in their line of the slice. No checks but those without which it would read or write where it must not.
//
//     plain_receiver SOCKET LINES COILS SAMPLES BUFFER_BYTES
//
// Reads ISMRMRD v1 messages from the inherited descriptor SOCKET until CLOSE. Prints how many readouts came; how many of them after
// the first of them had been taken in; the seconds from that moment to the last; and a sum over the slice as it then is, each 32-bit
// word times its place, which shows that every sample is where it belongs (and keeps the compiler from leaving out the copies).
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

enum { CONFIG_FILE = 1, CONFIG_TEXT = 2, HEADER = 3, CLOSE = 4, TEXT = 5, ACQUISITION = 1008 };
enum { ID_BYTES = 2, CONFIG_FILE_BYTES = 1024, ACQUISITION_HEADER_BYTES = 340, SAMPLE_BYTES = 8 };
enum { SAMPLES_AT = 34, COILS_AT = 38, TRAJECTORY_DIMENSIONS_AT = 176, PHASE_ENCODE_AT = 242 };  // in the header

static uint16_t u16(const unsigned char* at) {
    uint16_t value;
    memcpy(&value, at, sizeof value);
    return value;
}

static uint32_t u32(const unsigned char* at) {
    uint32_t value;
    memcpy(&value, at, sizeof value);
    return value;
}

static double now_s(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static void fail(const char* why) {
    fprintf(stderr, "plain_receiver: %s\n", why);
    exit(1);
}

// Bytes of the message that begins here, as far as `held` of them can tell: 0 where more are needed to know.
static size_t message_bytes(const unsigned char* message, size_t held) {
    if (held < ID_BYTES) return 0;
    const unsigned char* body = message + ID_BYTES;
    switch (u16(message)) {
        case CLOSE: return ID_BYTES;
        case CONFIG_FILE: return ID_BYTES + CONFIG_FILE_BYTES;
        case CONFIG_TEXT:
        case HEADER:
        case TEXT: return held < ID_BYTES + 4 ? 0 : ID_BYTES + 4 + (size_t)u32(body);
        case ACQUISITION: {
            if (held < ID_BYTES + ACQUISITION_HEADER_BYTES) return 0;
            const size_t samples = u16(body + SAMPLES_AT);
            return ID_BYTES + ACQUISITION_HEADER_BYTES + 4 * samples * u16(body + TRAJECTORY_DIMENSIONS_AT) +
                   SAMPLE_BYTES * samples * u16(body + COILS_AT);
        }
    }
    fail("an unknown message");
    return 0;
}

int main(int count, char** arguments) {
    if (count != 6) fail("usage: plain_receiver SOCKET LINES COILS SAMPLES BUFFER_BYTES");
    const int connection = atoi(arguments[1]);
    const size_t lines = (size_t)atol(arguments[2]), coils = (size_t)atol(arguments[3]), samples = (size_t)atol(arguments[4]);
    const size_t room = (size_t)atol(arguments[5]), line_bytes = SAMPLE_BYTES * coils * samples;
    unsigned char* buffer = malloc(room);
    unsigned char* slice = calloc(lines, line_bytes);
    if (!buffer || !slice) fail("no memory");
    size_t held = 0;
    long readouts = 0, counted = 0;
    double first_s = 0, last_s = 0;
    for (int closed = 0; !closed;) {
        const ssize_t received = recv(connection, buffer + held, room - held, 0);
        if (received <= 0) fail("the stream ended without CLOSE");
        held += (size_t)received;
        size_t taken = 0;
        long batch = 0;
        for (size_t size; !closed && (size = message_bytes(buffer + taken, held - taken)) != 0 && size <= held - taken; taken += size) {
            const unsigned char* message = buffer + taken;
            if (u16(message) == CLOSE) closed = 1;
            if (u16(message) != ACQUISITION) continue;
            const size_t line = u16(message + ID_BYTES + PHASE_ENCODE_AT);
            if (line >= lines || u16(message + ID_BYTES + COILS_AT) != coils || u16(message + ID_BYTES + SAMPLES_AT) != samples) {
                fail("a readout of another geometry");
            }
            memcpy(slice + line * line_bytes, message + size - line_bytes, line_bytes);
            ++batch;
        }
        if (taken == 0 && held == room) fail("a message larger than the buffer");
        memmove(buffer, buffer + taken, held - taken);
        held -= taken;
        if (batch) {
            last_s = now_s();
            if (readouts) counted += batch;
            else first_s = last_s;
            readouts += batch;
        }
    }
    uint64_t sum = 0;
    for (size_t word = 0; word < lines * line_bytes / 4; ++word) sum += (word + 1) * u32(slice + 4 * word);
    printf("%ld %ld %.9f %llu\n", readouts, counted, last_s - first_s, (unsigned long long)sum);
    return 0;
}
