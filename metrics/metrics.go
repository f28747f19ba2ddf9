// Package metrics is the private Prometheus registry of a program and the HTTP server of /metrics, /healthz and
// /readyz; it decides nothing and serves nothing that could change anything.
package metrics

import (
	"runtime"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"google.golang.org/grpc/codes"

	"srvlab.io/rds-csi/safety"
)

// Metrics are the metrics of one program, in a registry of its own.
type Metrics struct {
	registry *prometheus.Registry
	rpc      *prometheus.HistogramVec
	inFlight *prometheus.GaugeVec
	refusals *prometheus.CounterVec
}

// New gives the metrics of a program of that version. Every reason's counter starts at 0, so that an alert on its
// increase sees the first one too.
func New(version string) *Metrics {
	m := &Metrics{
		registry: prometheus.NewRegistry(),
		rpc: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "rds_csi_rpc_duration_seconds",
			Help: "Time that CSI calls took, by method and gRPC code.",
			// From an answer out of the kernel's own files to the two minutes after which kubelet gives up.
			Buckets: []float64{.001, .005, .02, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 120},
		}, []string{"method", "code"}),
		inFlight: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "rds_csi_rpcs_in_flight",
			Help: "CSI calls under way, by method.",
		}, []string{"method"}),
		refusals: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "rds_csi_refusals_total",
			Help: "CSI calls that ended with a reason. Each reason has its runbook.",
		}, []string{"reason"}),
	}
	for _, r := range safety.Reasons() {
		m.refusals.WithLabelValues(string(r))
	}
	build := prometheus.NewGauge(prometheus.GaugeOpts{
		Name:        "rds_csi_build_info",
		Help:        "Always 1; the labels say which program this is.",
		ConstLabels: prometheus.Labels{"version": version, "go_version": runtime.Version()},
	})
	build.Set(1)
	m.registry.MustRegister(m.rpc, m.inFlight, m.refusals, build,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// Register adds collectors of the program's own. It panics on a duplicate, as only a wrong program has one.
func (m *Metrics) Register(c ...prometheus.Collector) { m.registry.MustRegister(c...) }

// BeginRPC notes that a CSI call of the method has started; what it returns notes how it ended.
func (m *Metrics) BeginRPC(method string) func(codes.Code, safety.Reason) {
	running := m.inFlight.WithLabelValues(method)
	running.Inc()
	var code codes.Code
	timer := prometheus.NewTimer(prometheus.ObserverFunc(func(seconds float64) {
		m.rpc.WithLabelValues(method, code.String()).Observe(seconds)
	}))
	return func(c codes.Code, r safety.Reason) {
		running.Dec()
		code = c
		timer.ObserveDuration()
		if r != "" {
			m.refusals.WithLabelValues(string(r)).Inc()
		}
	}
}
