package metrics

import (
	"github.com/prometheus/client_golang/prometheus"

	"srvlab.io/rds-csi/safety"
)

var arrayReady = prometheus.NewDesc("rds_csi_array_ready",
	"1 where the array passed its last check, 0 where it did not, or was not checked yet.", []string{"array"}, nil)

// Arrays gives a collector over the arrays' last checks: ready is asked at each scrape and gives what an array lacks,
// nil where it is ready.
func Arrays(ready func() map[safety.ArrayName]error) prometheus.Collector { return arrays{ready} }

type arrays struct {
	ready func() map[safety.ArrayName]error
}

func (a arrays) Describe(ch chan<- *prometheus.Desc) { ch <- arrayReady }

func (a arrays) Collect(ch chan<- prometheus.Metric) {
	for name, err := range a.ready() {
		value := 1.0
		if err != nil {
			value = 0
		}
		ch <- prometheus.MustNewConstMetric(arrayReady, prometheus.GaugeValue, value, string(name))
	}
}
