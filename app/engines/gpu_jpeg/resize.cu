// Pillow's bicubic resizing with antialiasing (a = -0.5), to the bit: filter weights in double precision, rounded to 22
// bits after the point, and two passes with eight bits between them. Compiled with --fmad=false, since a fused product
// rounds once where Pillow rounds twice.
//
// Three kernels with the same arguments: `weights`, then `first_pass`, then `second_pass`. Layouts, C order:
//   weights  int   [pictures][2][side][taps]
//   spans    int   [pictures][2][side][2]                    the first tap's pixel, and how many taps there are
//   between  uchar [pictures][length[1]][side][3]            what the first pass leaves, from `between` of each picture on
//   images   uchar [pictures][side][side][3]

struct Picture {
    const unsigned char *pixels;  // RGB, the first pixel of the region that is seen
    long long step[2];            // bytes from a pixel to the next, along the axis that is resized first, and the other
    long long between;            // where its part of `between` starts, in bytes
    int out[2];                   // bytes from a pixel to the next in `images`, along the same two axes
    int length[2];                // pixels of the region
    float start[2], end[2];       // what of them fills the image
};

static const int POINT = 32 - 8 - 2;

__device__ static double filter(double x) {
    x = x < 0 ? -x : x;
    if (x < 1) return (1.5 * x - 2.5) * x * x + 1;
    if (x < 2) return (((x - 5) * x + 8) * x - 4) * -0.5;
    return 0;
}

__device__ static unsigned char rounded(int sum) {
    sum >>= POINT;
    return sum < 0 ? 0 : sum > 255 ? 255 : sum;
}

__device__ static void resize(const unsigned char *from, long long step, const int *weights, const int *span,
                              unsigned char *to) {
    int red = 1 << (POINT - 1), green = red, blue = red;
    from += span[0] * step;
    for (int tap = 0; tap < span[1]; tap++, from += step) {
        red += from[0] * weights[tap];
        green += from[1] * weights[tap];
        blue += from[2] * weights[tap];
    }
    to[0] = rounded(red);
    to[1] = rounded(green);
    to[2] = rounded(blue);
}

// Threads: x over the side, y over the axes, z over the pictures.
extern "C" __global__ void weights(const Picture *pictures, int side, int taps, int *weights, int *spans,
                                   unsigned char *, unsigned char *) {
    const int x = blockIdx.x * blockDim.x + threadIdx.x, axis = blockIdx.y * blockDim.y + threadIdx.y;
    if (x >= side || axis >= 2) return;
    const Picture &picture = pictures[blockIdx.z];
    const double scale = (double)(picture.end[axis] - picture.start[axis]) / side;
    const double stretch = scale < 1 ? 1 : scale, reach = 2 * stretch;
    const double centre = picture.start[axis] + (x + 0.5) * scale, narrow = 1 / stretch;
    const int from = centre - reach + 0.5, to = centre + reach + 0.5;
    const int first = from < 0 ? 0 : from, last = to > picture.length[axis] ? picture.length[axis] : to;
    double sum = 0;
    for (int pixel = first; pixel < last; pixel++) sum += filter((pixel - centre + 0.5) * narrow);
    const long long row = (blockIdx.z * 2 + axis) * (long long)side + x;
    for (int pixel = first; pixel < last; pixel++) {
        const double weight = filter((pixel - centre + 0.5) * narrow) / sum * (1 << POINT);
        weights[row * taps + pixel - first] = weight < 0 ? weight - 0.5 : weight + 0.5;
    }
    spans[row * 2] = first;
    spans[row * 2 + 1] = last - first;
}

// Threads: x over the side, y over the pixels of the other axis, z over the pictures.
extern "C" __global__ void first_pass(const Picture *pictures, int side, int taps, int *weights, int *spans,
                                      unsigned char *between, unsigned char *) {
    const int x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y * blockDim.y + threadIdx.y;
    const Picture &picture = pictures[blockIdx.z];
    if (x >= side || y >= picture.length[1]) return;
    const long long row = blockIdx.z * 2LL * side + x;
    resize(picture.pixels + y * picture.step[1], picture.step[0], weights + row * taps, spans + row * 2,
           between + picture.between + (y * (long long)side + x) * 3);
}

// Threads: x over the side, y over the other one, z over the pictures.
extern "C" __global__ void second_pass(const Picture *pictures, int side, int taps, int *weights, int *spans,
                                       unsigned char *between, unsigned char *images) {
    const int x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y * blockDim.y + threadIdx.y;
    if (x >= side || y >= side) return;
    const Picture &picture = pictures[blockIdx.z];
    const long long row = (blockIdx.z * 2LL + 1) * side + y, image = blockIdx.z * 3LL * side * side;
    resize(between + picture.between + x * 3, side * 3LL, weights + row * taps, spans + row * 2,
           images + image + x * (long long)picture.out[0] + y * (long long)picture.out[1]);
}
