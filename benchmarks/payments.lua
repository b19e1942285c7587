-- wrk: every request a payment of its own. Arguments: first number, path, token, body with # where the number goes.
local head, tail, before, after, number

function init(args)
  number = tonumber(args[1])
  local body = args[4]
  local from, to = body:find("#+")
  before, after = body:sub(1, from - 1), body:sub(to + 1)
  head = "POST " .. args[2] .. " HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    .. "Authorization: Bearer " .. args[3] .. "\r\nContent-Length: " .. #body .. "\r\nIdempotency-Key: bench-"
end

function request()
  number = number + 1
  local n = string.format("%012d", number)
  return head .. n .. "\r\n\r\n" .. before .. n .. after
end

function done(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format(
    "\nRESULT {\"requests\": %d, \"seconds\": %f, \"p50_ms\": %f, \"p99_ms\": %f, \"failed\": %d}\n",
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
    errors.connect + errors.read + errors.write + errors.status + errors.timeout))
end
