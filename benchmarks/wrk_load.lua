-- Sends whole requests from files in turn. Arguments: the pause before each request in ms, then the files.
local requests, position = {}, 0
local threads = {}
statuses = {}

function setup(thread)
  table.insert(threads, thread)
end

function init(arguments)
  local pause = tonumber(arguments[1])
  if pause > 0 then
    delay = function() return pause end
  end
  for index = 2, #arguments do
    local file = assert(io.open(arguments[index], "rb"))
    requests[index - 1] = file:read("*a")
    file:close()
  end
end

function request()
  position = position % #requests + 1
  return requests[position]
end

function response(status)
  local key = tostring(status)
  statuses[key] = (statuses[key] or 0) + 1
end

function done(summary, latency, _)
  local counts = {}
  for _, thread in ipairs(threads) do
    for status, count in pairs(thread:get("statuses")) do
      counts[status] = (counts[status] or 0) + count
    end
  end
  local shown = {}
  for status, count in pairs(counts) do
    table.insert(shown, string.format('"%s": %d', status, count))
  end
  local errors = summary.errors
  io.write(string.format(
    '\n{"statuses": {%s}, "broken": %d, "late": %d, "seconds": %f, "p50": %f, "p99": %f}\n',
    table.concat(shown, ", "), errors.connect + errors.read + errors.write, errors.timeout, summary.duration / 1e6,
    latency:percentile(50) / 1e6, latency:percentile(99) / 1e6))
end
