// The CUDA runtime as far as app.engines.gpu.cuda_device calls it: a fake, in the host's memory, with one GPU.
//
// It does what the documentation of the runtime promises and nothing sooner. Work on a stream waits in a queue until
// somebody waits for it, or by chance (stub_chance); the stream that goes on is drawn. A copy that leaves its buffers, or
// takes host for device memory, is an illegal address, after which every call fails as on a GPU. One thread at a time.

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <vector>

enum Error {
    Success = 0,
    InvalidValue = 1,
    MemoryAllocation = 2,
    InvalidResourceHandle = 400,
    NotReady = 600,
    IllegalAddress = 700,
    CaptureUnsupported = 900,
    CaptureInvalidated = 901,
    Unknown = 999,
};

using Work = std::function<void()>;

struct Moment {
    bool reached = false;
};

struct Step {
    Work work;
    std::shared_ptr<Moment> after;  // begins once this is reached, if there is one
};

struct Graph {
    std::vector<Work> work;
};

struct Capture {
    std::unique_ptr<Graph> graph = std::make_unique<Graph>();
    bool valid = true;
};

struct Stream {
    std::deque<Step> queue;
    std::unique_ptr<Capture> capture;
};

struct Event {
    std::shared_ptr<Moment> moment;  // none before it is recorded: nobody waits for it
};

static std::set<Stream *> streams;
static std::set<Event *> events;
static std::set<Graph *> graphs, executables;
static std::map<char *, size_t> device, pinned;  // sizes by first address
static Error last = Success, broken = Success;
static std::mt19937 chance(0);
static double eager = 0;
static const size_t GPU_BYTES = size_t(1) << 30;

static Error told(Error error) {
    if (broken) error = broken;
    if (error) last = error;
    return error;
}

static bool inside(const std::map<char *, size_t> &blocks, const void *address, size_t size) {
    auto block = blocks.upper_bound((char *)address);
    if (block == blocks.begin()) return false;
    --block;
    return (char *)address + size <= block->first + block->second;
}

static bool do_a_step() {
    std::vector<Stream *> ready;
    for (Stream *stream : streams)
        if (!stream->queue.empty() && (!stream->queue.front().after || stream->queue.front().after->reached))
            ready.push_back(stream);
    if (ready.empty() || broken) return false;
    Stream *stream = ready[chance() % ready.size()];
    Step step = std::move(stream->queue.front());
    stream->queue.pop_front();
    step.work();
    return true;
}

static void perhaps_work() {
    while (std::uniform_real_distribution<>()(chance) < eager && do_a_step()) {
    }
}

static Error enqueue(Stream *stream, Work work) {
    perhaps_work();
    if (!streams.count(stream)) return told(InvalidResourceHandle);
    if (stream->capture)
        stream->capture->graph->work.push_back(std::move(work));
    else
        stream->queue.push_back({std::move(work), nullptr});
    return told(Success);
}

// What may not be called while this thread captures: the capture is lost.
static bool unsafe() {
    bool captures = false;
    for (Stream *stream : streams)
        if (stream->capture) {
            stream->capture->valid = false;
            captures = true;
        }
    return captures;
}

static Error take(void **address, size_t size, std::map<char *, size_t> &blocks) {
    if (unsafe()) return told(CaptureUnsupported);
    if (size > GPU_BYTES) return told(MemoryAllocation);
    char *block = (char *)std::aligned_alloc(256, (size + 255) / 256 * 256);
    for (size_t at = 0; at < size; at++) block[at] = (char)chance();
    blocks[block] = size;
    *address = block;
    return told(Success);
}

static Error give_back(void *address, std::map<char *, size_t> &blocks) {
    while (do_a_step()) {  // as the runtime: it waits for the GPU
    }
    auto block = blocks.find((char *)address);
    if (block == blocks.end()) return told(InvalidValue);
    std::memset(address, 0xEE, block->second);  // who still looks at it sees nonsense
    std::free(address);
    blocks.erase(block);
    return told(Success);
}

enum Kind { HostToDevice = 1, DeviceToHost = 2 };

static Error copy(char *to, size_t to_pitch, const char *from, size_t from_pitch, size_t width, size_t rows, Kind kind,
                  Stream *stream) {
    if (kind != HostToDevice && kind != DeviceToHost) return told(InvalidValue);
    if (width > to_pitch || width > from_pitch) return told(InvalidValue);
    return enqueue(stream, [=] {
        for (size_t row = 0; row < rows; row++) {
            char *target = to + row * to_pitch;
            const char *source = from + row * from_pitch;
            if (!inside(kind == HostToDevice ? device : pinned, target, width) ||
                !inside(kind == HostToDevice ? pinned : device, source, width)) {
                broken = IllegalAddress;
                return;
            }
            std::memcpy(target, source, width);
        }
    });
}

extern "C" {

// For tests.

void stub_chance(unsigned seed, double probability) {
    chance.seed(seed);
    eager = probability;
}

int stub_held() {
    return streams.size() + events.size() + graphs.size() + executables.size() + device.size() + pinned.size();
}

// A kernel: output o of image i is pixel * (o + 1) + o for each of the first `classes` bytes, as float.
Error stub_network(const uint8_t *images, size_t count, size_t image_bytes, size_t classes, float *outputs,
                   size_t pitch, size_t output_count, Stream *stream) {
    return enqueue(stream, [=] {
        if (!inside(device, images, count * image_bytes) ||
            !inside(device, outputs, (output_count - 1) * pitch + count * classes * sizeof(float))) {
            broken = IllegalAddress;
            return;
        }
        for (size_t output = 0; output < output_count; output++)
            for (size_t image = 0; image < count; image++)
                for (size_t index = 0; index < classes; index++)
                    ((float *)((char *)outputs + output * pitch))[image * classes + index] =
                        images[image * image_bytes + index] * float(output + 1) + float(output);
    });
}

// The runtime's own; the names are those of its documentation.

Error cudaGetDeviceCount(int *count) {
    *count = 1;
    return told(Success);
}

Error cudaDriverGetVersion(int *version) {
    *version = 13000;
    return told(Success);
}

Error cudaRuntimeGetVersion(int *version) { return cudaDriverGetVersion(version); }

Error cudaSetDevice(int index) { return told(index ? InvalidValue : Success); }

struct Properties {  // how cudaDeviceProp begins
    char name[256], uuid[16], luid[8];
    unsigned luid_mask;
    size_t memory_bytes, shared_bytes;
    int registers, warp;
    size_t pitch;
    int threads, dimensions[3], grid[3];
    size_t constant_bytes;
    int major, minor;
};

Error cudaGetDeviceProperties(Properties *properties, int) {
    std::strcpy(properties->name, "Fake GPU");
    properties->memory_bytes = GPU_BYTES;
    properties->major = 9;
    properties->minor = 0;
    return told(Success);
}

Error cudaGetLastError() {
    Error error = broken ? broken : last;
    last = Success;
    return error;
}

Error cudaMalloc(void **address, size_t size) { return take(address, size, device); }

Error cudaFree(void *address) { return give_back(address, device); }

Error cudaMallocHost(void **address, size_t size) { return take(address, size, pinned); }

Error cudaFreeHost(void *address) { return give_back(address, pinned); }

Error cudaStreamCreateWithFlags(Stream **stream, unsigned flags) {
    streams.insert(*stream = new Stream);
    return told(flags == 1 ? Success : InvalidValue);  // non-blocking
}

Error cudaStreamDestroy(Stream *stream) {
    while (do_a_step()) {
    }
    if (!streams.erase(stream)) return told(InvalidResourceHandle);
    delete stream;
    return told(Success);
}

Error cudaEventCreateWithFlags(Event **event, unsigned flags) {
    events.insert(*event = new Event);
    return told(flags == 3 ? Success : InvalidValue);  // a blocking wait, and no timing
}

Error cudaEventDestroy(Event *event) {
    if (!events.erase(event)) return told(InvalidResourceHandle);
    delete event;
    return told(Success);
}

Error cudaEventRecord(Event *event, Stream *stream) {
    if (!events.count(event)) return told(InvalidResourceHandle);
    auto moment = event->moment = std::make_shared<Moment>();
    return enqueue(stream, [moment] { moment->reached = true; });
}

Error cudaStreamWaitEvent(Stream *stream, Event *event, unsigned flags) {
    perhaps_work();
    if (!events.count(event) || !streams.count(stream)) return told(InvalidResourceHandle);
    stream->queue.push_back({[] {}, event->moment});
    return told(flags ? InvalidValue : Success);
}

Error cudaEventSynchronize(Event *event) {
    if (unsafe()) return told(CaptureUnsupported);
    if (!events.count(event)) return told(InvalidResourceHandle);
    while (event->moment && !event->moment->reached)
        if (!do_a_step()) return told(Unknown);  // the streams wait for each other
    return told(Success);
}

Error cudaEventQuery(Event *event) {
    perhaps_work();
    if (!events.count(event)) return told(InvalidResourceHandle);
    return event->moment && !event->moment->reached ? NotReady : told(Success);
}

Error cudaDeviceSynchronize() {
    if (unsafe()) return told(CaptureUnsupported);
    while (do_a_step()) {
    }
    return told(Success);
}

Error cudaMemcpyAsync(void *to, const void *from, size_t size, Kind kind, Stream *stream) {
    return copy((char *)to, size, (const char *)from, size, size, 1, kind, stream);
}

Error cudaMemcpy2DAsync(void *to, size_t to_pitch, const void *from, size_t from_pitch, size_t width, size_t rows,
                        Kind kind, Stream *stream) {
    return copy((char *)to, to_pitch, (const char *)from, from_pitch, width, rows, kind, stream);
}

Error cudaStreamBeginCapture(Stream *stream, int mode) {
    if (!streams.count(stream)) return told(InvalidResourceHandle);
    if (stream->capture || mode != 1) return told(InvalidValue);  // thread-local
    stream->capture = std::make_unique<Capture>();
    return told(Success);
}

Error cudaStreamEndCapture(Stream *stream, Graph **graph) {
    *graph = nullptr;
    if (!streams.count(stream) || !stream->capture) return told(InvalidValue);
    auto capture = std::move(stream->capture);
    if (!capture->valid) return told(CaptureInvalidated);
    graphs.insert(*graph = capture->graph.release());
    return told(Success);
}

Error cudaGraphInstantiate(Graph **executable, Graph *graph, unsigned long long) {
    if (!graphs.count(graph)) return told(InvalidValue);
    executables.insert(*executable = new Graph(*graph));
    return told(Success);
}

Error cudaGraphDestroy(Graph *graph) {
    if (!graphs.erase(graph)) return told(InvalidValue);
    delete graph;
    return told(Success);
}

Error cudaGraphExecDestroy(Graph *executable) {
    if (!executables.erase(executable)) return told(InvalidValue);
    delete executable;
    return told(Success);
}

Error cudaGraphLaunch(Graph *executable, Stream *stream) {
    if (!executables.count(executable)) return told(InvalidValue);
    for (const Work &work : executable->work)
        if (Error error = enqueue(stream, work)) return error;
    return told(Success);
}
}
