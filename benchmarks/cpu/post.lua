-- For wrk: posts the files named as arguments in turn, each a whole multipart body. Prints the round as one line of JSON.
-- wrk -t1 -s post.lua URL -- BOUNDARY FILE...

local requests, turn = {}, 0

function init(args)
  local headers = { ["Content-Type"] = "multipart/form-data; boundary=" .. args[1] }
  for number = 2, #args do
    local file = assert(io.open(args[number], "rb"))
    requests[number - 1] = wrk.format("POST", nil, headers, file:read("*a"))
    file:close()
  end
end

function request()
  turn = turn % #requests + 1
  return requests[turn]
end

function done(summary, latency)
  local found = {}
  for number = 1, #latency do
    local microseconds, count = latency(number)
    found[number] = string.format("[%d,%d]", microseconds, count)
  end
  local wrong = summary.errors
  io.write(string.format(
    '{"requests":%d,"microseconds":%d,"status_errors":%d,"broken":%d,"latencies":[%s]}\n',
    summary.requests, summary.duration, wrong.status, wrong.connect + wrong.read + wrong.write + wrong.timeout,
    table.concat(found, ",")))
end
