-- For wrk: posts the files named as arguments in turn, each a whole multipart body. Prints the round as one line of JSON.
-- wrk -t1 -s post.lua URL -- BOUNDARY FILE...

local ffi = require("ffi")
ffi.cdef("struct timeval { long s; long us; }; int gettimeofday(struct timeval *now, void *zone);")

local now, requests, turn, began, sender = ffi.new("struct timeval"), {}, 0, nil, nil
answered = {} -- global: what setup's thread can be asked for

local function milliseconds()
  ffi.C.gettimeofday(now, nil)
  return tonumber(now.s) * 1000 + tonumber(now.us) / 1000
end

function setup(thread)
  sender = thread
end

function init(args)
  local headers = { ["Content-Type"] = "multipart/form-data; boundary=" .. args[1] }
  for number = 2, #args do
    local file = assert(io.open(args[number], "rb"))
    requests[number - 1] = wrk.format("POST", nil, headers, file:read("*a"))
    file:close()
  end
end

function request()
  began = began or milliseconds()
  turn = turn % #requests + 1
  return requests[turn]
end

function response(status)
  if status == 200 then
    answered[#answered + 1] = string.format("%.1f", milliseconds() - began)
  end
end

function done(summary, latency)
  local found = {}
  for number = 1, #latency do
    local microseconds, count = latency(number)
    found[number] = string.format("[%d,%d]", microseconds, count)
  end
  local wrong = summary.errors
  io.write(string.format(
    '{"requests":%d,"microseconds":%d,"status_errors":%d,"broken":%d,"latencies":[%s],"answered":[%s]}\n',
    summary.requests, summary.duration, wrong.status, wrong.connect + wrong.read + wrong.write + wrong.timeout,
    table.concat(found, ","), table.concat(sender:get("answered"), ",")))
end
